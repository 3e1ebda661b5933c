package sysfs

import "math"

// quantity is what an input measures: its sensor_type, its unit, and what
// turns the kernel's unit into that.
type quantity struct {
	kind     string
	unit     string
	exponent int // power of ten from the kernel's unit to ours
}

// convert turns f from the kernel's unit into that of q. It divides by powers
// of ten rather than multiply with their inverses, which no float64 holds:
// 21375 / 1000 is 21.375, 21375 * 0.001 is not.
func (q quantity) convert(f float64) float64 {
	if q.exponent < 0 {
		return f / math.Pow10(-q.exponent)
	}
	return f * math.Pow10(q.exponent)
}

// celsius is a temperature in the kernel's usual thousandths of a degree.
var celsius = quantity{"temperature", "C", -3}

// shunt is a voltage that an INA3221 gives in millionths of a volt.
var shunt = quantity{"voltage", "V", -6}

// alarm is a hwmon attribute that is 0 or 1.
var alarm = quantity{"alarm", "", 0}

// hwmonQuantities are by the letters of the attribute's name. The kernel's
// units are those of Documentation/hwmon/sysfs-interface.
var hwmonQuantities = map[string]quantity{
	"temp":     celsius,
	"in":       {"voltage", "V", -3},
	"curr":     {"current", "A", -3},
	"power":    {"power", "W", -6},
	"energy":   {"energy", "J", -6},
	"humidity": {"humidity", "%", -3},
	"fan":      {"fan_speed", "rpm", 0},
}

// iioQuantities are by the letters after "in_". The kernel's units are those
// of Documentation/ABI/testing/sysfs-bus-iio.
var iioQuantities = map[string]quantity{
	"temp":                   celsius,
	"voltage":                {"voltage", "V", -3},
	"current":                {"current", "A", -3},
	"power":                  {"power", "W", -3},
	"energy":                 {"energy", "J", 0},
	"humidityrelative":       {"humidity", "%", -3},
	"pressure":               {"pressure", "Pa", 3}, // kPa
	"illuminance":            {"illuminance", "lx", 0},
	"resistance":             {"resistance", "Ohm", 0},
	"capacitance":            {"capacitance", "F", -9}, // nF
	"concentration":          {"concentration", "%", 0},
	"massconcentration":      {"mass_concentration", "ug/m3", 0},
	"ph":                     {"ph", "pH", 0},
	"electricalconductivity": {"conductivity", "S/m", 0},
	"distance":               {"distance", "m", 0},
	"velocity":               {"velocity", "m/s", 0},
	"accel":                  {"acceleration", "m/s2", 0},
	"gravity":                {"acceleration", "m/s2", 0},
	"anglvel":                {"angular_velocity", "rad/s", 0},
	"angl":                   {"angle", "rad", 0},
	"incli":                  {"inclination", "deg", 0},
	"rot":                    {"rotation", "", 0},
	"magn":                   {"magnetic_field", "T", -4}, // gauss
	"proximity":              {"proximity", "", 0},
	"intensity":              {"intensity", "", 0},
	"uvindex":                {"uv_index", "", 0},
	"count":                  {"count", "", 0},
}
