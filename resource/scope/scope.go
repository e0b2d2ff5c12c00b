// Package scope has the tree that all ids hang on: subscriptions and resource
// groups, which are resources themselves.
package scope

import (
	"context"
	"encoding/json"

	"lapis/fault"
	"lapis/pattern"
	"lapis/resource"
)

// Subscriptions is the type of subscriptions. They are made at first start.
func Subscriptions() *resource.Type {
	return &resource.Type{Name: resource.SubscriptionType, Title: "subscription"}
}

var groupName = pattern.New(`^[-\w._()]{1,90}$`)

// Groups is the type of resource groups. Deleting one deletes all in it.
func Groups() *resource.Type {
	return &resource.Type{
		Name:  resource.GroupType,
		Title: "resource group",
		// There is nothing to take back of a group itself, but of what lies in it.
		Release: func(context.Context, resource.Resource) error { return nil },
		Check: func(name string) error {
			if !groupName.MatchString(name) || name[len(name)-1] == '.' {
				return fault.Invalid("%q is no name for a resource group: 1 to 90 letters, digits, '_', '-', '.', '(' and ')', not ending in '.'", name).With("InvalidResourceGroupName").At("resourceGroupName")
			}
			return nil
		},
		Admit: func(_ context.Context, c *resource.Change) error {
			if c.New.Location == "" {
				return fault.Invalid("the location property is required for a resource group").With("LocationRequired").At("location")
			}
			c.New.Status = json.RawMessage(`{"provisioningState":"Succeeded"}`)
			return nil
		},
	}
}
