//! Configuration errors of a declaration.

use std::fmt;

/// A configuration error of a declaration, or of the other settings of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclarationError {
    /// The path of the key in the declaration, with the indexes of arrays.
    pub key: Vec<String>,
    /// The found and the expected value in one sentence.
    pub message: String,
    /// A suggestion for a fix.
    pub hint: Option<String>,
}

impl fmt::Display for DeclarationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key.join("."), self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}
