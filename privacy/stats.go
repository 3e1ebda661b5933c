package privacy

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"

	"github.com/pyvorin/pyvorin-edge/config"
)

// Stats are a Filter's counts since it was made. Every evaluated reading is in
// exactly one of passed, transformed, aggregated, dropped and errors.
type Stats struct {
	Enabled    bool   `json:"enabled"`
	Rules      int    `json:"rules"`
	PolicyHash string `json:"policy_hash"` // SHA-256 (hex) of what the rules mean
	KeyID      string `json:"key_id"`      // "" without a key

	Evaluated   uint64 `json:"evaluated_total"`
	Passed      uint64 `json:"passed_total"`      // left as they were
	Transformed uint64 `json:"transformed_total"` // left in another form
	Aggregated  uint64 `json:"aggregated_total"`  // left only as a part of a window
	Dropped     uint64 `json:"dropped_total"`     // matched a drop rule
	Errors      uint64 `json:"errors_total"`      // dropped because a rule could not be applied

	PerRule []RuleStats `json:"per_rule"` // in the order of the rules, also those without a hit
}

// RuleStats are the counts of one rule. A rule that never hits is misspelt, or
// stands behind another that covers the same.
type RuleStats struct {
	Key    string `json:"key"` // such as privacy.rules[0]
	Match  string `json:"match"`
	Action string `json:"action"`
	Hits   uint64 `json:"hits_total"`   // readings, values and fields it acted on
	Errors uint64 `json:"errors_total"` // readings dropped because it could not be applied
}

// Stats returns the counts. It is cheap enough for every /health request.
func (f *Filter) Stats() Stats {
	s := Stats{
		Enabled: f.enabled, Rules: len(f.rules), PolicyHash: f.policyHash, KeyID: f.keyID,
		Evaluated: f.evaluated.Load(), Passed: f.passed.Load(), Transformed: f.transformed.Load(),
		Aggregated: f.aggregated.Load(), Dropped: f.dropped.Load(), Errors: f.errors.Load(),
		PerRule: make([]RuleStats, len(f.rules)),
	}
	for i, r := range f.rules {
		s.PerRule[i] = RuleStats{
			Key: r.key, Match: r.matchText(), Action: r.spec.Action, Hits: r.hits.Load(), Errors: r.errors.Load(),
		}
	}
	return s
}

// policyHash names what the rules mean: devices with equal hashes treat equal
// readings alike, but for their keys. The order of rules is part of that; the
// settings that an action ignores are not.
func policyHash(c config.Privacy) string {
	type canonicalRule struct {
		SensorPattern string  `json:"sensor_pattern,omitempty"`
		SensorType    string  `json:"sensor_type,omitempty"`
		IngestType    string  `json:"ingest_type,omitempty"`
		Tag           string  `json:"tag,omitempty"`
		Field         string  `json:"field,omitempty"`
		Action        string  `json:"action"`
		Replacement   *string `json:"replacement,omitempty"`
		KeepLast      int     `json:"keep_last,omitempty"`
		Decimals      *int    `json:"decimals,omitempty"`
		Step          float64 `json:"step,omitempty"`
		WindowMinutes float64 `json:"window_minutes,omitempty"`
		Statistic     string  `json:"statistic,omitempty"`
		Recipient     string  `json:"recipient,omitempty"`
	}
	rules := make([]canonicalRule, len(c.Rules))
	for i, r := range c.Rules {
		rules[i] = canonicalRule{
			SensorPattern: r.SensorPattern, SensorType: r.SensorType, IngestType: r.IngestType, Tag: r.Tag, Field: r.Field,
			Action: r.Action, KeepLast: r.KeepLast, Decimals: r.Decimals, Step: r.Step,
			WindowMinutes: r.WindowMinutes, Recipient: r.Recipient,
		}
		if r.Action == actRedact || r.Action == actMask {
			rules[i].Replacement = &r.Replacement
		}
		if r.Action == actAggregate {
			rules[i].Statistic = r.Statistic
		}
	}
	text, err := json.Marshal(struct {
		Format  int             `json:"format"`
		Enabled bool            `json:"enabled"`
		Rules   []canonicalRule `json:"rules"`
	}{1, c.Enabled, rules})
	if err != nil {
		return "" // NaN or an infinity, which New refuses
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}
