package wire

// MaxDeviceIDBytes is as long as a device's id may be: what the common name of
// a certificate holds.
const MaxDeviceIDBytes = 64

// DeviceIDForm says in words what ValidDeviceID accepts.
const DeviceIDForm = "1 to 64 letters, digits, dots, dashes and underscores, the first a letter or digit"

// ValidDeviceID reports whether id can be a device's: then it can also be one
// level of a topic, a file name, a part of an HTTP header and the name in a
// certificate.
func ValidDeviceID(id string) bool {
	if id == "" || len(id) > MaxDeviceIDBytes {
		return false
	}
	for i, c := range []byte(id) {
		switch {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z':
		case i > 0 && (c == '-' || c == '_' || c == '.'):
		default:
			return false
		}
	}
	return true
}
