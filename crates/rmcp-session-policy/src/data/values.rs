//! [`Values`]: the session data of one session.

use std::fmt;
use std::sync::Arc;

use super::error::SessionDataError;
use super::types::{AnyValue, DataTypes, Slot};

use crate::directory::StoredValue;

/// A value. A copy is the same value.
#[derive(Clone)]
pub(crate) struct Value {
    /// `None` for one that came from a directory and was not read yet.
    decoded: Option<AnyValue>,
    /// What a directory stores of it. `None` if its type is not registered.
    stored: Option<Arc<StoredValue>>,
    slot: Slot,
    bytes: usize,
}

/// The values of a session. They do not change: a change makes new ones.
#[derive(Clone, Debug, Default)]
pub(crate) struct Values {
    values: Vec<Value>,
}

impl Value {
    /// Makes a value of a type, and what a directory stores of it. Costs its serialization if the type is registered.
    pub(crate) fn new<T: Send + Sync + 'static>(value: Arc<T>, types: &DataTypes) -> Result<Self, SessionDataError> {
        let slot = types.slot::<T>();
        let Some(this) = types.of::<T>() else {
            return Ok(Self { decoded: Some(value), stored: None, slot, bytes: size_of::<T>() });
        };
        let bytes = this.encode(&*value).map_err(|error| SessionDataError::Encode(error.into()))?;
        let stored = StoredValue { name: Arc::clone(&this.name), version: this.version, bytes: bytes.into() };
        Ok(Self { decoded: Some(value), bytes: stored.size(), stored: Some(Arc::new(stored)), slot })
    }

    fn of_stored(stored: StoredValue) -> Self {
        let slot = Slot::Name(Arc::clone(&stored.name));
        Self { decoded: None, bytes: stored.size(), stored: Some(Arc::new(stored)), slot }
    }

    /// Reads it as a value of a type. `None` if it is of another version. Costs its deserialization if it came from a
    /// directory and was not read yet.
    pub(crate) fn read<T: Send + Sync + 'static>(&self, types: &DataTypes) -> Result<Option<Arc<T>>, SessionDataError> {
        let decoded = match (&self.decoded, &self.stored, types.of::<T>()) {
            (Some(decoded), ..) => Arc::clone(decoded),
            (None, Some(stored), Some(this)) if stored.version == this.version => {
                this.decode(&stored.bytes).map_err(|error| SessionDataError::Decode(error.into()))?
            }
            _ => return Ok(None),
        };
        Ok(decoded.downcast().ok())
    }

    /// Returns this value as one that was read.
    pub(crate) fn with_decoded(&self, decoded: AnyValue) -> Self {
        Self { decoded: Some(decoded), ..self.clone() }
    }

    /// Whether it was read, or has always been in memory.
    pub(crate) const fn is_decoded(&self) -> bool {
        self.decoded.is_some()
    }

    /// Whether both are one value: nothing was set between them.
    pub(crate) fn is(&self, other: &Self) -> bool {
        match (&self.stored, &other.stored) {
            (Some(this), Some(other)) => Arc::ptr_eq(this, other),
            (None, None) => match (&self.decoded, &other.decoded) {
                (Some(this), Some(other)) => std::ptr::addr_eq(Arc::as_ptr(this), Arc::as_ptr(other)),
                _ => false,
            },
            _ => false,
        }
    }
}

impl Values {
    /// The values that a directory has stored.
    pub(crate) fn of_stored(stored: impl IntoIterator<Item = StoredValue>) -> Self {
        Self { values: stored.into_iter().map(Value::of_stored).collect() }
    }

    /// No values.
    pub(crate) const NONE: &Self = &Self { values: Vec::new() };

    pub(crate) fn get(&self, slot: &Slot) -> Option<&Value> {
        self.values.iter().find(|value| value.slot == *slot)
    }

    /// Returns the values with this one in the slot, or with none.
    pub(crate) fn with(&self, slot: &Slot, value: Option<Value>) -> Self {
        let others = self.values.iter().filter(|value| value.slot != *slot).cloned();
        Self { values: others.chain(value).collect() }
    }

    /// What the values are in bytes: as JSON for those that are stored, else the size of their type.
    pub(crate) fn bytes(&self) -> usize {
        self.values.iter().map(|value| value.bytes).sum()
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// What a directory stores.
    pub(crate) fn stored(&self) -> impl Iterator<Item = &StoredValue> {
        self.values.iter().filter_map(|value| value.stored.as_deref())
    }
}

/// Shows no value: they are the data of users.
impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Value").field("slot", &self.slot).field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types() -> DataTypes {
        let mut types = DataTypes::default();
        types.register::<u64>("count", 2);
        types
    }

    fn value<T: Send + Sync + 'static>(of: T) -> Value {
        Value::new(Arc::new(of), &types()).expect("encodes")
    }

    #[test]
    fn a_slot_has_one_value_and_others_stay() {
        let types = types();
        let (count, text) = (types.slot::<u64>(), types.slot::<String>());
        let one = Values::default().with(&count, Some(value(1_u64))).with(&text, Some(value("a".to_owned())));
        let two = one.with(&count, Some(value(2_u64)));
        let read = |values: &Values| values.get(&count).and_then(|value| value.read::<u64>(&types).expect("reads"));
        assert_eq!((read(&one).as_deref(), read(&two).as_deref()), (Some(&1), Some(&2)));
        assert!(two.get(&text).is_some());
        assert_eq!(two.bytes(), "count".len() + 1 + size_of::<String>());
        let none = two.with(&count, None).with(&text, None);
        assert!(none.is_empty() && none.bytes() == 0);
    }

    #[test]
    fn what_was_stored_is_read_under_its_name_and_version_alone() {
        let stored = |version, bytes: &[u8]| StoredValue { name: "count".into(), version, bytes: bytes.into() };
        let read = |value: &Value| value.read::<u64>(&types()).map(|value| value.as_deref().copied());
        assert_eq!(read(&Value::of_stored(stored(2, b"7"))).expect("reads"), Some(7));
        assert_eq!(read(&Value::of_stored(stored(1, b"7"))).expect("another version"), None);
        assert!(matches!(read(&Value::of_stored(stored(2, b"x"))), Err(SessionDataError::Decode(_))));
        let values = Values::of_stored([stored(1, b"7")]);
        assert_eq!(values.stored().collect::<Vec<_>>(), [&stored(1, b"7")], "another release may read it");
    }

    #[test]
    fn a_value_is_the_same_until_another_is_set() {
        let (number, text) = (value(1_u64), value("a".to_owned()));
        assert!(number.is(&number.clone()) && text.is(&text.clone()));
        assert!(!number.is(&value(1_u64)) && !text.is(&value("a".to_owned())) && !number.is(&text));
        let stored = Value::of_stored(StoredValue { name: "count".into(), version: 2, bytes: b"7"[..].into() });
        assert!(stored.with_decoded(Arc::new(7_u64)).is(&stored), "it was only read");
    }

    #[test]
    fn values_are_not_shown() {
        assert!(
            !format!("{:?}", Values::default().with(&types().slot::<u64>(), Some(value(4_711_u64)))).contains("4711")
        );
    }
}
