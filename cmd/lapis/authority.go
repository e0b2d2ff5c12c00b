package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	authorityLife   = 10 * 365 * 24 * time.Hour
	certificateLife = 365 * 24 * time.Hour
	renewBefore     = 30 * 24 * time.Hour
)

// authority is the local certificate authority and the server's certificate,
// which is made anew when its names change or it is about to expire.
type authority struct {
	f         *folder
	cert      *x509.Certificate
	key       *ecdsa.PrivateKey
	names     []string
	addresses []net.IP

	mu     sync.Mutex
	server *tls.Certificate
}

// openAuthority reads keys/ca.crt and keys/ca.key, which it makes the first
// time, and sees to a certificate for the names and addresses.
func openAuthority(f *folder, names []string, addresses []net.IP) (*authority, error) {
	a := &authority{f: f, names: names, addresses: addresses}
	if err := a.load(); err != nil {
		return nil, err
	}
	_, err := a.certificate(nil)
	return a, err
}

func (a *authority) load() error {
	certPEM, err := os.ReadFile(a.f.path("keys", "ca.crt"))
	if errors.Is(err, fs.ErrNotExist) {
		return a.create()
	}
	if err != nil {
		return err
	}
	keyPEM, err := os.ReadFile(a.f.path("keys", "ca.key"))
	if err != nil {
		return damaged(a.f.path("keys", "ca.key"), err)
	}
	if a.cert, err = parseCertificate(certPEM); err != nil {
		return damaged(a.f.path("keys", "ca.crt"), err)
	}
	key, err := parsePrivate(keyPEM)
	if err != nil {
		return damaged(a.f.path("keys", "ca.key"), err)
	}
	var ok bool
	if a.key, ok = key.(*ecdsa.PrivateKey); !ok {
		return damaged(a.f.path("keys", "ca.key"), errors.New("not an ECDSA key"))
	}
	if time.Now().Add(certificateLife).After(a.cert.NotAfter) {
		return a.create()
	}
	return nil
}

// create makes the authority. Clients in strict mode (Python 3.13) want basic
// constraints and key usage marked critical, and key identifiers.
func (a *authority) create() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	host, _ := os.Hostname()
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: fmt.Sprintf("Lapis local authority %s %s", host, now.UTC().Format("2006-01-02 15:04:05")), Organization: []string{"Lapis"}},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.Add(authorityLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		return err
	}
	a.key = key
	return a.store("ca", der, key)
}

func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 126))
	if err != nil {
		panic(err) // crypto/rand does not fail
	}
	return n.Add(n, big.NewInt(1))
}

// store writes the key first, so that a certificate is never without one.
func (a *authority) store(name string, der []byte, key *ecdsa.PrivateKey) error {
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := a.f.write(filepath.Join("keys", name+".key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600); err != nil {
		return err
	}
	return a.f.write(filepath.Join("keys", name+".crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
}

// certificate is tls.Config.GetCertificate: the present one, or a new one when
// that is near its end.
func (a *authority) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.server == nil {
		if pair, err := tls.LoadX509KeyPair(a.f.path("keys", "server.crt"), a.f.path("keys", "server.key")); err == nil {
			a.server = &pair
		}
	}
	if a.server != nil && a.good(a.server.Leaf) {
		return a.server, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: a.names[0], Organization: []string{"Lapis"}},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.Add(certificateLife),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		DNSNames:              a.names,
		IPAddresses:           a.addresses,
		SubjectKeyId:          keyID(public),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return nil, err
	}
	if err := a.store("server", der, key); err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	a.server = &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
	return a.server, nil
}

// good tells whether a certificate serves our names a while longer.
func (a *authority) good(c *x509.Certificate) bool {
	return c != nil && time.Now().Add(renewBefore).Before(c.NotAfter) &&
		time.Now().After(c.NotBefore) &&
		bytes.Equal(c.AuthorityKeyId, a.cert.SubjectKeyId) &&
		slices.Equal(c.DNSNames, a.names) &&
		slices.EqualFunc(c.IPAddresses, a.addresses, net.IP.Equal)
}

// keyID is a subject key identifier as RFC 7093 has it: the first 160 bits of
// the key's SHA-256.
func keyID(public []byte) []byte {
	sum := sha256.Sum256(public)
	return sum[:20]
}

func parseCertificate(pemBytes []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(pemBytes)
	if block == nil || !strings.Contains(block.Type, "CERTIFICATE") {
		return nil, errors.New("not a certificate in PEM form")
	}
	return x509.ParseCertificate(block.Bytes)
}
