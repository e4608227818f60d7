//! Parts of a state that most successors share: cloned by reference, hashed once.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

/// A value and, once sealed, its fingerprint.
#[derive(Clone, Debug)]
pub struct Shared<T> {
    value: Arc<T>,
    print: Option<u64>,
}

impl<T: Clone + Hash> Shared<T> {
    pub fn new(value: T) -> Shared<T> {
        let mut shared = Shared { value: Arc::new(value), print: None };
        shared.seal();
        shared
    }

    /// To be changed; [`Shared::seal`] must follow before the state is hashed.
    pub fn edit(&mut self) -> &mut T {
        self.print = None;
        Arc::make_mut(&mut self.value)
    }

    pub fn seal(&mut self) {
        if self.print.is_none() {
            let mut hasher = DefaultHasher::new();
            self.value.hash(&mut hasher);
            self.print = Some(hasher.finish());
        }
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Hash for Shared<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.print.expect("sealed").hash(state);
    }
}

impl<T: PartialEq> PartialEq for Shared<T> {
    fn eq(&self, other: &Shared<T>) -> bool {
        self.print == other.print && self.value == other.value
    }
}

impl<T: Eq> Eq for Shared<T> {}
