// Package auth is to hold the core's users, roles, permissions and tokens.
//
// There is nothing here yet. A core has no authentication and answers the Auth service with Unimplemented.
package auth
