package auth

import (
	"crypto"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"os"

	"github.com/golang-jwt/jwt/v5"
)

// jwtKey is a key as the signing method takes it. Who knows only the public key cannot sign: sign is nil.
type jwtKey struct{ sign, verify any }

// readJWTKey reads the key of a method from PEM files; for HMAC, the bytes of the private file are the key, all of them.
// A private key has the public one with it, so one file is enough, and two must belong together.
func readJWTKey(method jwt.SigningMethod, privateFile, publicFile string) (jwtKey, error) {
	private, err := readKeyFile("priv-key", privateFile)
	if err != nil {
		return jwtKey{}, err
	}
	public, err := readKeyFile("pub-key", publicFile)
	if err != nil {
		return jwtKey{}, err
	}
	if _, ok := method.(*jwt.SigningMethodHMAC); ok {
		if private == nil {
			return jwtKey{}, fmt.Errorf("sign-method %s needs a key: give its file with priv-key", method.Alg())
		}
		return jwtKey{sign: private, verify: private}, nil
	}
	var key jwtKey
	if private != nil {
		signer, err := parsePrivateKey(method, private)
		if err != nil {
			return jwtKey{}, fmt.Errorf("priv-key %s: %w", privateFile, err)
		}
		key = jwtKey{sign: signer, verify: signer.Public()}
	}
	if public != nil {
		given, err := parsePublicKey(method, public)
		if err != nil {
			return jwtKey{}, fmt.Errorf("pub-key %s: %w", publicFile, err)
		}
		if key.sign != nil && !given.Equal(key.verify) {
			return jwtKey{}, errors.New("pub-key does not belong to priv-key: one of them is enough")
		}
		key.verify = given
	}
	if key.verify == nil {
		return jwtKey{}, fmt.Errorf("sign-method %s needs a key: give its file with priv-key, or with pub-key to check tokens only", method.Alg())
	}
	return key, checkCurve(method, key.verify)
}

// readKeyFile returns nil for no file.
func readKeyFile(option, name string) ([]byte, error) {
	if name == "" {
		return nil, nil
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", option, err)
	}
	if len(b) == 0 {
		return nil, fmt.Errorf("read %s: %s is empty", option, name)
	}
	return b, nil
}

func parsePrivateKey(method jwt.SigningMethod, pem []byte) (crypto.Signer, error) {
	switch method.(type) {
	case *jwt.SigningMethodRSA, *jwt.SigningMethodRSAPSS:
		return jwt.ParseRSAPrivateKeyFromPEM(pem)
	case *jwt.SigningMethodECDSA:
		return jwt.ParseECPrivateKeyFromPEM(pem)
	}
	key, err := jwt.ParseEdPrivateKeyFromPEM(pem)
	if err != nil {
		return nil, err
	}
	return key.(crypto.Signer), nil
}

// publicKey is what all public keys of the standard library are.
type publicKey interface {
	Equal(crypto.PublicKey) bool
}

func parsePublicKey(method jwt.SigningMethod, pem []byte) (publicKey, error) {
	switch method.(type) {
	case *jwt.SigningMethodRSA, *jwt.SigningMethodRSAPSS:
		return jwt.ParseRSAPublicKeyFromPEM(pem)
	case *jwt.SigningMethodECDSA:
		return jwt.ParseECPublicKeyFromPEM(pem)
	}
	key, err := jwt.ParseEdPublicKeyFromPEM(pem)
	if err != nil {
		return nil, err
	}
	return key.(publicKey), nil
}

// checkCurve refuses a key of another elliptic curve than the method's. Nothing could be signed or verified with it.
func checkCurve(method jwt.SigningMethod, key any) error {
	m, isMethod := method.(*jwt.SigningMethodECDSA)
	k, isKey := key.(*ecdsa.PublicKey)
	if isMethod && isKey && k.Curve.Params().BitSize != m.CurveBits {
		return fmt.Errorf("sign-method %s needs a key of %d bits, not of curve %s", m.Alg(), m.CurveBits, k.Curve.Params().Name)
	}
	return nil
}
