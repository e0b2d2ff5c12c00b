package deploy

import (
	"context"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"lapis/fault"
	"lapis/ml/blob"
	"lapis/ml/compute"
	"lapis/ml/data"
	"lapis/ml/serving"
)

// image has the deployment's instances be containers of the environment's image.
func (d *Deployer) image(ctx context.Context, w wanted, s *Spec, env inference) error {
	why := fault.New(fault.NotImplemented, "BadArgument", "needs a container engine, which this machine does not have")
	if d.Containers != nil {
		_, err := d.Containers.Engine(ctx)
		if err == nil {
			why = nil
		} else if why = fault.Find(err); why == nil {
			return err
		}
	}
	const at = "properties.environmentId"
	switch {
	case why != nil && env.Build != nil:
		return fault.New(why.Kind, "ImageBuildFailure", "The environment cannot be made: its Dockerfile %s; name an image and a conda file instead.", why.Message).At(at)
	case why != nil:
		return fault.New(why.Kind, "BadArgument", "The environment's image %s; give the command that starts its server in properties: %s.", why.Message, propCommand).At(at)
	case env.Conda != "":
		return fault.Invalid("The environment has a conda file beside its image, and what is in a container is the image alone; put the packages into the image, or give 'codeConfiguration' with a scoring script.").With("BadArgument").At(at)
	case env.Build != nil:
		from, err := data.Locate(ctx, d.Resources, w.site.ID, env.Build.ContextURI)
		if err != nil {
			return err
		}
		if from.URL != "" {
			return fault.Invalid("The build context of the environment lies at %q, outside of this server; upload it.", fault.Clip(from.URL)).With("ImageBuildFailure").At(at)
		}
		s.Build = &serving.Build{Account: from.Container.Account, Container: from.Container.Name, Prefix: blob.Folder(from.Path), Dockerfile: env.Build.Dockerfile}
	case env.Image == "":
		return fault.Invalid("The deployment is to be a container, and its environment names no image.").With("BadArgument").At(at)
	default:
		s.Image = env.Image
	}
	s.Runtime = serving.Image
	s.answersAt(env.Config)
	return nil
}

// ContainerMark is a file in the folder of a group whose instances are
// containers, which stay when the group is killed.
const ContainerMark = "containers"

// fetchImage sees to it that the image of a group is here, and that nothing is
// left of the containers that the group had before. It returns "" for a group
// that has none.
func (d *Deployer) fetchImage(ctx context.Context, g *group, stage func(format string, args ...any), log io.Writer) (image string, err error) {
	s := g.spec
	if s.Runtime != serving.Image {
		return "", nil
	}
	if d.Containers == nil {
		return "", fault.New(fault.NotImplemented, "BadArgument", "The environment's image needs a container engine, which this machine does not have.").At("properties.environmentId")
	}
	if s.Build != nil {
		stage("Building the image of the environment's Dockerfile")
		image, err = d.Containers.Build(ctx, *s.Build, log)
	} else {
		stage("Pulling the image %s", s.Image)
		image, err = d.Containers.Pull(ctx, s.Image, log)
	}
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(g.dir, 0o700); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(g.dir, ContainerMark), nil, 0o600); err != nil {
		return "", err
	}
	return image, d.Containers.Remove(ctx, g.dir)
}

// removeContainers removes what a group that has ended has left of containers.
func (d *Deployer) removeContainers(ctx context.Context, g *group) error {
	if _, err := os.Stat(filepath.Join(g.dir, ContainerMark)); err != nil || d.Containers == nil {
		return nil
	}
	return d.Containers.Remove(ctx, g.dir)
}

// contain makes the task of a group run its instances as containers of the
// image. Code and model are where Azure ML mounts them.
func (d *Deployer) contain(t *compute.Task, w wanted, g *group, image string) {
	s := g.spec
	c := serving.Container{Group: g.dir, Image: image, Port: s.Port, Variables: map[string]string{"AML_APP_ROOT": strings.TrimSuffix(appRoot, "/")}}
	for _, name := range append(slices.Collect(maps.Keys(s.Variables)), "SERVICE_NAME", "AZUREML_MODEL_ENDPOINT", "AZUREML_DEPLOYMENT_NAME", "AZUREML_ENTRY_SCRIPT") {
		if value, there := t.Env[name]; there {
			c.Variables[name] = value
			delete(t.Env, name)
		}
	}
	const folder = `"$LAPIS_TASK_DIR"`
	if s.Code != nil {
		c.Mounts = append(c.Mounts, serving.Mount{From: folder + "/wd", To: strings.TrimSuffix(appRoot, "/")})
	}
	if m := s.Model; m != nil {
		c.Variables["AZUREML_MODEL_DIR"] = "/" + m.Mount
		c.Mounts = append(c.Mounts, serving.Mount{From: folder + quote("/inputs/"+m.Mount), To: "/" + m.Mount, ReadOnly: true})
	}
	if size, ok := compute.ParseSize(w.deployment.InstanceType); ok {
		c.Memory, c.CPU = d.limits(size)
		c.OOM = outOfMemory(size)
	}
	command, after, env := d.Containers.Command(c)
	t.Env[serving.GroupCommand], t.Env[serving.GroupAfter] = command, after
	t.Env[serving.GroupProbe] = s.Probe
	maps.Copy(t.Env, env)
}
