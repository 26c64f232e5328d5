package devdb

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
)

// weakIterations is for servers of tests. The many rounds of SCRAM protect
// passwords that can be guessed, and these cannot: they have 128 random bits.
// With 4,096 rounds (PostgreSQL's default) a connection costs 13 ms more of
// processor time under the race detector, and tests open thousands.
const weakIterations = 1

// scramSecret is what the server stores for a password, in PostgreSQL's form;
// it accepts one in place of the password itself.
func scramSecret(password string, iterations int) (string, error) {
	salt := make([]byte, 16)
	_, _ = rand.Read(salt) // never fails
	salted, err := pbkdf2.Key(sha256.New, password, salt, iterations, sha256.Size)
	if err != nil {
		return "", fmt.Errorf("derive key: %w", err)
	}
	clientKey := sign(salted, "Client Key")
	storedKey := sha256.Sum256(clientKey)
	serverKey := sign(salted, "Server Key")
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", iterations, b64(salt), b64(storedKey[:]), b64(serverKey)), nil
}

func sign(key []byte, text string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}
