//! A script contains frames of a declared feed, for example from the documentation of the feed, and fault rules.

use crate::faults::{FaultRule, escaped};

use super::FeedError;

/// The frames of a declared feed, and fault rules.
///
/// A script has one frame in each line. A line that begins with `#` is a comment, and a line that begins with `#!` is a fault
/// rule, such as `#! cut,after=3`. The rule `send` without a text takes the next line that is not empty as its frame; this line
/// is not part of the sequence of frames.
#[derive(Clone, Debug, Default)]
pub struct Script {
    frames: Vec<Line>,
    /// The fault rules, in the order of the script.
    pub faults: Vec<FaultRule>,
}

/// A frame of a script.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// The number of the line, from 1.
    pub(super) number: usize,
    pub(super) frame: String,
}

impl Script {
    /// Parses a script.
    ///
    /// # Errors
    /// Returns an error if a fault rule is invalid, or if `send` has neither a text nor a frame in the next line.
    pub fn parse(text: &str) -> Result<Self, FeedError> {
        let mut script = Self::default();
        let mut lines = text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty());
        while let Some((line, number)) = lines.next() {
            let error = |message: String| FeedError::new(format!("line {number} of the script: {message}"));
            if let Some(rule) = line.strip_prefix("#!") {
                let rule = rule.trim();
                let text = match rule.strip_prefix("send") {
                    Some(conditions) if !conditions.starts_with('=') => {
                        let next = lines.next().filter(|(frame, _)| !frame.starts_with('#'));
                        let (frame, _) = next.ok_or_else(|| {
                            error("`send` has no text, expected a frame in the next line".to_owned())
                        })?;
                        format!("send={}{conditions}", escaped(frame))
                    }
                    _ => rule.to_owned(),
                };
                script
                    .faults
                    .push(text.parse().map_err(|reason| error(format!("{reason}")))?);
            } else if !line.starts_with('#') {
                script.frames.push(Line {
                    number,
                    frame: line.to_owned(),
                });
            }
        }
        Ok(script)
    }

    /// Removes the fault rules, so that only the frames are played.
    #[must_use]
    pub fn without_faults(mut self) -> Self {
        self.faults.clear();
        self
    }

    pub(super) fn frames(&self) -> &[Line] {
        &self.frames
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_faults_and_frames_are_distinguished() {
        let text = "# a comment\n\n{\"a\":1}\n#! cut,after=3\n#! send,after=5,times=1\n{\"b\":[1,2]}\npong\n";
        let script = Script::parse(text).unwrap();
        let frames: Vec<(usize, &str)> = script
            .frames()
            .iter()
            .map(|line| (line.number, line.frame.as_str()))
            .collect();
        assert_eq!(frames, [(3, "{\"a\":1}"), (7, "pong")]);
        let faults: Vec<String> = script.faults.iter().map(ToString::to_string).collect();
        assert_eq!(faults, ["cut,after=3", "send={\"b\":[1\\,2]},after=5,times=1"]);
    }

    #[test]
    fn unusable_rule_is_reported_with_its_line() {
        let error = |text: &str| Script::parse(text).unwrap_err().to_string();
        assert!(
            error("{}\n#! cutt").starts_with("line 2 of the script: unknown"),
            "{}",
            error("{}\n#! cutt")
        );
        assert!(error("#! send,after=1\n# no frame").contains("next line"));
        assert!(error("#! send").contains("next line"));
    }
}
