package tracking

import (
	"math/rand/v2"
	"strconv"
	"strings"
)

var (
	adjectives = strings.Fields("able amber ample aqua azure bold brave bright brisk calm candid clean clear clever " +
		"cosmic crisp curious daring deep eager early easy fair fancy fast fine fond free fresh gentle glad golden " +
		"grand great happy hardy honest humble jolly keen kind large light lively loud loyal lucky merry mighty mild " +
		"modest neat nimble noble odd open patient plain polite proud quick quiet rare ready rich royal sedate serene " +
		"sharp shiny silent sincere skilled sleek smart smooth sunny sweet swift tidy tough upbeat useful valiant vivid " +
		"warm wise witty zany")
	animals = strings.Fields("ant ape auk bass bat bear bee bird boar bug calf carp cat chimp cod colt conch cow crab " +
		"crane crow cub deer doe dog dolphin donkey dove duck eel elk fawn finch fish flea fly foal fowl fox frog gnat " +
		"goat goose grouse grub gull hare hawk hen hog horse hound jay kit kite koi lamb lark loon lynx mare mink mole " +
		"moose moth mouse mule newt owl ox panda penguin perch pig pug quail ram rat ray robin roo rook seal shad shark " +
		"sheep shoat shrew shrike shrimp skink skunk sloth slug smelt snail snake snipe sow sponge squid squirrel stag " +
		"steed stoat stork swan tern toad trout turtle vole wasp whale wolf worm wren yak zebra")
)

// randomName is a name for a run that was given none: "brave-otter-123".
func randomName() string {
	return adjectives[rand.IntN(len(adjectives))] + "-" + animals[rand.IntN(len(animals))] + "-" + strconv.Itoa(rand.IntN(1000))
}
