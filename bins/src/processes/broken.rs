//! What did not go as promised, in words.

use std::fmt;

/// A promise that was not kept, or a demonstration that could not go on. One sentence.
#[derive(Debug)]
pub struct Broken(pub String);

impl Broken {
    /// With where it happened in front.
    #[must_use]
    pub fn at(self, place: &str) -> Self {
        Self(format!("{place}: {}", self.0))
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Broken {}

impl From<chat_client::Error> for Broken {
    fn from(error: chat_client::Error) -> Self {
        Self(error.to_string())
    }
}
