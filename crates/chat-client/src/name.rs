//! The name of an account, as often as it is needed.

use std::{borrow::Borrow, fmt, ops::Deref, sync::Arc};

/// The name of an account: 2 to 32 bytes, lower case. Cheap to clone: the messages of one page share theirs.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// As a string.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

// Equal, ordered and hashed as a string is.
impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl From<&str> for Name {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

impl From<String> for Name {
    fn from(name: String) -> Self {
        Self(name.into())
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.as_str().to_owned()
    }
}

impl PartialEq<str> for Name {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for Name {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl PartialEq<String> for Name {
    fn eq(&self, other: &String) -> bool {
        self.as_str() == other
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn a_name_is_used_as_a_string_is() {
        let (name, ben, owned) = (Name::from("ann"), Name::from("ben"), "ann".to_owned());
        assert_eq!((name.as_str(), name.len(), name.as_ref()), ("ann", 3, "ann"));
        assert!(name == *"ann" && name == "ann" && name == owned && name != "ben");
        assert_eq!((name.to_string(), format!("{name:>5} {name:?}")), ("ann".to_owned(), "  ann \"ann\"".to_owned()));
        assert_eq!(String::from(Name::from(name.to_string())), "ann");
        assert_eq!(HashMap::from([(name.clone(), 7)]).get("ann"), Some(&7));
        assert!(Name::default().is_empty() && name < ben);
        assert_eq!(name.clone().as_ptr(), name.as_ptr());
    }
}
