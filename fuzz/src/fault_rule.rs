//! Fuzzes the parser of the simulator's fault rules.

use neurobridge_simulator::FaultRule;

/// Checks that any text is parsed as a rule or rejected with an error, and that the display form of a rule is parsed as the same
/// rule.
pub fn fault_rule(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    match text.parse::<FaultRule>() {
        Ok(rule) => assert_eq!(rule.to_string().parse::<FaultRule>(), Ok(rule)),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
