package syncqueue

import "context"

// Exec runs SQL on the writer's connection.
func Exec(q *Queue, query string) error {
	return q.ask(context.Background(), func() error {
		_, err := q.store.write.ExecContext(bg, query)
		return err
	})
}

// Durability returns PRAGMA synchronous of the writer's connection.
func Durability(q *Queue) (level int, err error) {
	err = q.ask(context.Background(), func() error {
		return q.store.write.QueryRowContext(bg, "PRAGMA synchronous").Scan(&level)
	})
	return level, err
}

// ClockStep is clockStep.
var ClockStep = clockStep
