package wire

// LossSensor is the sensor name of the readings that a device's queue itself
// puts into the stream, to tell the receiver of a loss: their type is one of the
// two below, their value the number of readings (null when nobody knows), and in
// meta are first_seq, last_seq and reason. Every reading that is gone has its seq
// in that range; not every seq in the range is gone.
const (
	LossSensor  = "pyvorin.queue"
	LossEvicted = "evicted" // by the queue's bounds
	LossLost    = "lost"    // with a damaged or missing queue file
)
