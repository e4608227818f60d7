//! Texts as serde brings them: parsed where they lie, without a `String` of each that is thrown away.

use serde::Deserializer;
use serde::de::{Error, Visitor};
use std::fmt;
use std::marker::PhantomData;

/// What `parse` makes of a string.
pub(crate) fn parsed<'de, D, T, E>(deserializer: D, parse: impl Fn(&str) -> Result<T, E>) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    E: fmt::Display,
{
    deserializer.deserialize_str(Parsing { parse, of: PhantomData })
}

struct Parsing<F, T> {
    parse: F,
    of: PhantomData<T>,
}

impl<F, T, E> Visitor<'_> for Parsing<F, T>
where
    F: Fn(&str) -> Result<T, E>,
    E: fmt::Display,
{
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<X: Error>(self, text: &str) -> Result<T, X> {
        (self.parse)(text).map_err(X::custom)
    }
}
