package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"os"

	"lapis/backend/courier"
	"lapis/backend/sqldb"
	"lapis/fault"
	"lapis/ml"
	"lapis/ml/webhook"
	"lapis/ml/workspace"
)

// newCourier is what brings messages to webhooks. It trusts the authorities that
// jobs trust.
func newCourier(s settings, bundle string) (*courier.Courier, error) {
	pem, err := os.ReadFile(bundle)
	if err != nil {
		return nil, fmt.Errorf("read trusted authorities: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fault.Invalid("%s holds no certificate", bundle)
	}
	return courier.New(courier.Config{Private: s.PrivateWebhooks, Roots: roots}), nil
}

// newWebhooks makes the service of webhooks, and the loop that makes their
// deliveries.
func (v *server) newWebhooks(db *sqldb.DB, resources *sqldb.Resources, catalog *workspace.Catalog) *webhook.Service {
	hooks := webhook.New(webhook.Config{
		Manager: v.manager, Store: resources, Outbox: sqldb.NewOutbox(db), Sealer: v.keys.sealer, Courier: v.courier, Now: now,
		Workspace: func(ctx context.Context, site ml.Site) string {
			if on, err := catalog.Enabled(ctx); err != nil || !on {
				return ""
			}
			name, _ := catalog.NameOf(ctx, site.GUID)
			return name
		},
		Failed: func(d webhook.Delivery, why string) {
			v.log.Warn("webhook given up", "webhook", d.Webhook, "delivery", d.ID, "attempts", d.Attempts+1, "why", why)
		},
	})
	v.loops = append(v.loops, loop{"webhooks", hooks.Run})
	return hooks
}
