#!/bin/sh
# The API as JSON, with curl alone: what it sends and what is answered. Keys and values are in base64, and numbers of 64 bits
# in quotes.
#
#     curl.sh [URL]        # of a store without users and roles, in which it leaves the keys below example/curl/
set -eu
url=${1:-http://127.0.0.1:2379}
scratch=$(mktemp -d)
watch=
trap 'rm -r "$scratch"; kill $watch 2>/dev/null || true' EXIT

main() {
	refuse users user/list
	refuse roles role/list
	key=$(b64 example/curl/key) other=$(b64 example/curl/other)
	first=$(b64 example/curl/) end=$(b64 example/curl0) # all keys that begin with example/curl/: 0 follows / in ASCII

	echo "# put, get, get by prefix"
	call /v3/kv/put '{"key": "'"$key"'", "value": "'"$(b64 one)"'"}'
	call /v3/kv/range '{"key": "'"$key"'"}'
	call /v3/kv/range '{"key": "'"$first"'", "range_end": "'"$end"'", "keys_only": true}'

	echo "# a transaction: puts only if there is no such key"
	txn='{"compare": [{"key": "'"$other"'", "target": "CREATE", "create_revision": "0"}],
	  "success": [{"request_put": {"key": "'"$other"'", "value": "'"$(b64 two)"'"}}],
	  "failure": [{"request_range": {"key": "'"$other"'"}}]}'
	call /v3/kv/txn "$txn"
	call /v3/kv/txn "$txn"

	echo "# a watch: an answer that goes on, a line for each that there is"
	mkfifo "$scratch/watch"
	curl --silent --show-error --no-buffer "$url/v3/watch" --data '{"create_request": {"key": "'"$key"'"}}' >"$scratch/watch" &
	watch=$!
	exec 3<"$scratch/watch"
	next # it begins
	call /v3/kv/put '{"key": "'"$key"'", "value": "'"$(b64 three)"'"}'
	next

	echo "# a lease: its keys go with it"
	call /v3/lease/grant '{"TTL": "60", "ID": "4711"}'
	call /v3/kv/put '{"key": "'"$(b64 example/curl/leased)"'", "lease": "4711"}'
	call /v3/lease/keepalive '{"ID": "4711"}'
	call /v3/lease/revoke '{"ID": "4711"}'
	call /v3/kv/range '{"key": "'"$(b64 example/curl/leased)"'"}'

	echo "# errors: a status of HTTP, gRPC's code, and the text that every other client gets"
	call /v3/kv/put '{"key": ""}'
	call /v3/lease/keepalive '{"ID": "4711"}' # no error: an answer without a TTL
	call /v3/lease/revoke '{"ID": "4711"}'
	call /v3/kv/nothing '{}'

	echo "# users: a token goes into the header Authorization as it is"
	call /v3/auth/user/add '{"name": "root", "password": "secret"}'
	call /v3/auth/role/add '{"name": "root"}'
	call /v3/auth/user/grant '{"user": "root", "role": "root"}'
	call /v3/auth/enable '{}'
	call /v3/kv/put '{"key": "'"$key"'"}'
	call /v3/auth/authenticate '{"name": "root", "password": "wrong"}'
	token=$(curl --silent --show-error --fail "$url/v3/auth/authenticate" --data '{"name": "root", "password": "secret"}' |
		sed 's/.*"token":"\([^"]*\)".*/\1/')
	call /v3/kv/put '{"key": "'"$key"'"}' --header "Authorization: $token"
	call /v3/auth/disable '{}' --header "Authorization: $token"
	call /v3/auth/user/delete '{"name": "root"}'
	call /v3/auth/role/delete '{"role": "root"}'
}

# call PATH BODY [OPTION...]
call() {
	path=$1 body=$2
	shift 2
	echo "$path $body"
	curl --silent --show-error "$@" --write-out '\n    %{http_code}\n' "$url$path" --data "$body" | sed 's/^ *{/    {/; /^$/d'
}

# refuse ends this where there are users or roles: it switches authentication on, makes root, and deletes it.
refuse() {
	there=$(curl --silent --show-error --fail "$url/v3/auth/$2" --data '{}')
	case $there in
	*"\"$1\""*)
		echo "$0: the store at $url has $1: give one without, such as a new one" >&2
		exit 1
		;;
	esac
}

# next prints an answer of the watch.
next() {
	read -r answer <&3
	echo "    watched: $answer"
}

b64() { printf %s "$1" | base64; }

main
