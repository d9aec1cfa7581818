// Package coalesce makes one call, watch or stream out of many.
package coalesce
