{{/* The release's name, with the chart's unless that is in it. */}}
{{- define "weir.fullname" -}}
{{- if contains "weir" .Release.Name -}}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{- else -}}{{ printf "%s-weir" .Release.Name | trunc 40 | trimSuffix "-" }}{{- end -}}
{{- end }}

{{- define "weir.core" -}}{{ include "weir.fullname" . }}-core{{- end }}
{{- define "weir.proxy" -}}{{ include "weir.fullname" . }}-proxy{{- end }}

{{/* Labels by which pods are selected: a list of the context and the component. They never change. */}}
{{- define "weir.labels" -}}
app.kubernetes.io/name: weir
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* The host of the member of an ordinal: a list of the context and the ordinal, or $(POD_NAME)'s. */}}
{{- define "weir.member" -}}
{{- $core := include "weir.core" (index . 0) -}}
{{ index . 1 }}.{{ $core }}-peers.$(POD_NAMESPACE).svc
{{- end }}

{{/* What --initial-cluster names. */}}
{{- define "weir.initialCluster" -}}
{{- $root := . -}}
{{- $core := include "weir.core" . -}}
{{- $members := list -}}
{{- range $i := until (int .Values.core.replicas) -}}
{{- $pod := printf "%s-%d" $core $i -}}
{{- $members = append $members (printf "%s=%s://%s:2380" $pod (include "weir.peerScheme" $root) (include "weir.member" (list $root $pod))) -}}
{{- end -}}
{{ join "," $members }}
{{- end }}

{{- define "weir.peerScheme" -}}{{ ternary "https" "http" (ne .Values.core.tls.peer.secretName "") }}{{- end }}
{{- define "weir.clientScheme" -}}{{ ternary "https" "http" (ne .Values.core.tls.client.secretName "") }}{{- end }}

{{/* What --endpoints names: each member by itself, so that proxies spread over them and leave one that fails. */}}
{{- define "weir.endpoints" -}}
{{- $root := . -}}
{{- $endpoints := .Values.proxy.upstream.endpoints -}}
{{- if and (not $endpoints) .Values.core.enabled -}}
{{- range $i := until (int .Values.core.replicas) -}}
{{- $host := include "weir.member" (list $root (printf "%s-%d" (include "weir.core" $root) $i)) -}}
{{- $endpoints = append $endpoints (printf "%s://%s:2379" (include "weir.clientScheme" $root) $host) -}}
{{- end -}}
{{- end -}}
{{- if not $endpoints -}}{{- fail "proxy.upstream.endpoints is empty and core.enabled is false: name what the proxies stand before, as [https://10.0.0.1:2379]" -}}{{- end -}}
{{ join "," $endpoints }}
{{- end }}

{{/* Values that would leave out what they seem to demand. */}}
{{- define "weir.check" -}}
{{- $core := .Values.core -}}{{- $proxy := .Values.proxy -}}
{{- if and $core.enabled $core.tls.client.clientAuth (not $core.tls.client.secretName) -}}
{{- fail "core.tls.client.clientAuth is true without core.tls.client.secretName: nobody would be asked for a certificate" -}}
{{- end -}}
{{- if $proxy.enabled -}}
{{- if and $proxy.tls.clientAuth (not $proxy.tls.secretName) -}}
{{- fail "proxy.tls.clientAuth is true without proxy.tls.secretName: nobody would be asked for a certificate" -}}
{{- end -}}
{{- if and $proxy.upstream.tls.clientCert (not $proxy.upstream.tls.secretName) -}}
{{- fail "proxy.upstream.tls.clientCert is true without proxy.upstream.tls.secretName, which has the certificate" -}}
{{- end -}}
{{- if and $core.enabled $core.tls.client.clientAuth (not $proxy.upstream.endpoints) (not $proxy.upstream.tls.clientCert) (not (hasKey $proxy.flags "cert")) -}}
{{- fail "core.tls.client.clientAuth is true, and the proxies have no certificate for the core: set proxy.upstream.tls" -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Flags of a map, one argument each. */}}
{{- define "weir.flags" -}}
{{- range $name, $value := . }}
- {{ printf "--%s=%v" $name $value | quote }}
{{- end }}
{{- end }}

{{/* The variables of every pod. */}}
{{- define "weir.env" -}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
{{- end }}

{{/* What every pod has in common: the profile "restricted", and no token of Kubernetes, which weir has no use for. */}}
{{- define "weir.podSecurity" -}}
automountServiceAccountToken: false
# The variables that Kubernetes makes of services would begin as those of weir's flags do.
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- end }}

{{- define "weir.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end }}

{{- define "weir.image" -}}
{{- $root := index . 0 -}}{{- $image := index . 1 -}}
image: {{ printf "%s:%s" $image.repository (default $root.Chart.AppVersion $image.tag) | quote }}
imagePullPolicy: {{ $image.pullPolicy }}
{{- end }}

{{/* Where pods may run: what the values of a component say. */}}
{{- define "weir.placement" -}}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
