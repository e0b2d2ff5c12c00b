package registry

import (
	"context"
	"strconv"
	"strings"

	"lapis/fault"
	"lapis/ml"
	"lapis/pattern"
	"lapis/resource"
)

var (
	aliasForm     = pattern.New(`^[\w\-]*$`)
	versionsAlias = pattern.New(`^[vV]\d+$`)
)

func checkAliasForm(alias string) error {
	switch {
	case alias == "":
		return invalid("Registered model alias name cannot be empty.")
	case !aliasForm.MatchString(alias):
		return invalid("Invalid alias name: '%s'. Names may only contain alphanumerics, underscores (_), and dashes (-).", alias)
	case len(alias) > 255:
		return invalid("'Registered model alias name' exceeds the maximum length of 255 characters")
	}
	return nil
}

// checkAlias refuses what no version can be called.
func checkAlias(alias string) error {
	if err := checkAliasForm(alias); err != nil {
		return err
	}
	switch {
	case strings.EqualFold(alias, "latest"):
		return invalid("'latest' alias name (case insensitive) is reserved.")
	case versionsAlias.MatchString(alias):
		return invalid("Version alias name '%s' is reserved.", alias)
	}
	return nil
}

// CheckNumber refuses what is no version number.
func CheckNumber(version string) error {
	if _, err := strconv.ParseInt(version, 10, 64); err != nil {
		return invalid("Parameter 'version' must be an integer, got '%s'.", version)
	}
	return nil
}

// SetAlias makes an alias name a version, and no other.
func (g *Registry) SetAlias(ctx context.Context, site ml.Site, name, alias, version string) error {
	if err := checkAlias(alias); err != nil {
		return err
	}
	if err := CheckNumber(version); err != nil {
		return err
	}
	if _, err := g.Version(ctx, site, name, version); err != nil {
		return err
	}
	_, err := g.changeModel(ctx, site, name, func(p resource.Document, m *only) (err error) {
		m.quiet = true
		if m.Aliases == nil {
			m.Aliases = map[string]string{}
		}
		m.Aliases[alias] = version
		m.rows, err = g.tell(ctx, site, tagsOf(p), "model_version_alias", "prompt_alias", "created", aliasChange{name, alias, version})
		return err
	})
	return err
}

// DeleteAlias removes an alias; one that is not there is no error.
func (g *Registry) DeleteAlias(ctx context.Context, site ml.Site, name, alias string) error {
	if err := checkAliasForm(alias); err != nil {
		return err
	}
	_, err := g.changeModel(ctx, site, name, func(p resource.Document, m *only) (err error) {
		m.quiet = true
		delete(m.Aliases, alias)
		m.rows, err = g.tell(ctx, site, tagsOf(p), "model_version_alias", "prompt_alias", "deleted", aliasChange{Name: name, Alias: alias})
		return err
	})
	return err
}

// Aliased returns the version that an alias names. The alias latest is the
// newest version.
func (g *Registry) Aliased(ctx context.Context, site ml.Site, name, alias string) (Version, error) {
	if err := checkAliasForm(alias); err != nil {
		return Version{}, err
	}
	m, err := g.Model(ctx, site, name)
	if err != nil {
		return Version{}, err
	}
	if strings.EqualFold(alias, "latest") {
		all, err := g.Versions(ctx, site, name)
		if err != nil {
			return Version{}, err
		}
		var newest *Version
		for i := range all {
			if newest == nil || number(all[i].Number) > number(newest.Number) {
				newest = &all[i]
			}
		}
		if newest != nil {
			return *newest, nil
		}
	}
	version, ok := m.Aliases[alias]
	if !ok {
		return Version{}, invalid("Registered model alias %s not found.", alias)
	}
	v, err := g.Version(ctx, site, name, version)
	if fault.Is(err, fault.Missing) {
		return v, invalid("Registered model alias %s not found.", alias)
	}
	return v, err
}
