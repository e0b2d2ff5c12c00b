package mlflowhttp

import "lapis/fault"

// Registry keeps registered models and their versions.
type Registry interface{}

func (s *Server) registryRoutes() {
	_ = fault.NotImplemented
}
