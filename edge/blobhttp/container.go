package blobhttp

import (
	"net/http"

	"lapis/fault"
)

// containerProperties is Get Container Properties and Get Container Metadata.
func (s *server) containerProperties(w http.ResponseWriter, r *request) error {
	if err := r.access.may("", read, list); err != nil {
		return err
	}
	ok, err := s.store.HasContainer(r.Context(), r.container)
	if err != nil {
		return err
	}
	if !ok {
		return fault.NotFound("The container %q does not exist.", r.container.Name).With("ContainerNotFound")
	}
	h := w.Header()
	h.Set("ETag", `"0x1"`) // a container has no properties that could change
	h.Set("Last-Modified", "Thu, 01 Jan 1970 00:00:00 GMT")
	h.Set("x-ms-lease-status", "unlocked")
	h.Set("x-ms-lease-state", "available")
	h.Set("x-ms-has-immutability-policy", "false")
	h.Set("x-ms-has-legal-hold", "false")
	h.Set("Content-Length", "0")
	w.WriteHeader(http.StatusOK)
	return nil
}

// createContainer is Create Container. A signature that is for a part of the
// container, or that cannot make new blobs, does not do.
func (s *server) createContainer(w http.ResponseWriter, r *request) error {
	if g := r.access.grant; g != nil && (g.Prefix != "" || g.Blob) {
		return fault.Denied("The shared access signature is for a part of the container %q.", r.container.Name).With("AuthorizationPermissionMismatch")
	}
	if err := r.access.may("", create); err != nil {
		return err
	}
	if s.cfg.Reserved != nil && s.cfg.Reserved(r.container.Name) {
		return fault.Invalid("No container may be named %q: addresses that begin with it have another meaning here.", r.container.Name).With("InvalidResourceName")
	}
	ok, err := s.store.HasContainer(r.Context(), r.container)
	if err != nil {
		return err
	}
	if ok {
		return fault.Conflicts("The container %q exists already.", r.container.Name).With("ContainerAlreadyExists")
	}
	if err := s.store.CreateContainer(r.Context(), r.container); err != nil {
		return err
	}
	w.Header().Set("ETag", `"0x1"`)
	w.Header().Set("Last-Modified", "Thu, 01 Jan 1970 00:00:00 GMT")
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(http.StatusCreated)
	return nil
}

// accountInfo is Get Account Information.
func (s *server) accountInfo(w http.ResponseWriter, r *request) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return fault.New(fault.NotAllowed, "UnsupportedHttpVerb", "%s is not offered here.", r.Method)
	}
	w.Header().Set("x-ms-sku-name", "Standard_LRS")
	w.Header().Set("x-ms-account-kind", "StorageV2")
	w.Header().Set("x-ms-is-hns-enabled", "false")
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(http.StatusOK)
	return nil
}
