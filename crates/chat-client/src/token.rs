//! The session token: 32 random bytes that open an account, so they never appear in a `Debug` or an error.

use std::fmt;

use bytes::Bytes;
use tonic::metadata::{Ascii, MetadataValue};

use crate::error::Error;

#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token([u8; 32]);

impl Token {
    /// Random, from the operating system.
    pub(crate) fn generate() -> Result<Self, Error> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|error| Error::Usage(format!("no random bytes to be had: {error}")))?;
        Ok(Self(bytes))
    }

    /// From 64 hexadecimal digits.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let malformed = || Error::Usage("a session token is 64 hexadecimal digits".to_owned());
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if pairs.len() != 32 || !rest.is_empty() {
            return Err(malformed());
        }
        let mut bytes = [0; 32];
        for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
            let digit = |c: &u8| char::from(*c).to_digit(16).ok_or_else(malformed);
            *byte = (digit(high)? * 16 + digit(low)?) as u8;
        }
        Ok(Self(bytes))
    }

    /// 64 hexadecimal digits.
    pub(crate) fn reveal(&self) -> String {
        // For every call: not by way of `format!`.
        let digits = self.0.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        digits.map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)])).collect()
    }

    pub(crate) fn wire(&self) -> Bytes {
        Bytes::copy_from_slice(&self.0)
    }

    /// The value of the `authorization` metadata, marked so that nobody logs it.
    pub(crate) fn bearer(&self) -> MetadataValue<Ascii> {
        let text = format!("Bearer {}", self.reveal());
        // Hexadecimal digits are always valid in metadata; an empty value would be refused by the service.
        let mut value = MetadataValue::try_from(text).unwrap_or_else(|_| MetadataValue::from_static(""));
        value.set_sensitive(true);
        value
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_being_written_down() {
        let token = Token::generate().unwrap();
        assert_eq!(Token::parse(&token.reveal()).unwrap(), token);
        assert_eq!(token.reveal().len(), 64);
    }

    #[test]
    fn is_never_shown() {
        let token = Token::generate().unwrap();
        assert!(!format!("{token:?}").contains(&token.reveal()));
        assert!(!format!("{:?}", token.bearer()).contains(&token.reveal()));
        let error = Token::parse("deadbeef").unwrap_err();
        assert!(!error.to_string().contains("deadbeef"));
        assert!(Token::parse(&"g".repeat(64)).is_err());
    }
}
