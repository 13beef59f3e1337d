//! [`DataTypes`]: the types of session data that are registered under a name and a version.

use std::any::{Any, TypeId, type_name};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config_error::ConfigError;

/// The longest name, in bytes.
const LONGEST_NAME: usize = 64;
/// The most bytes that the values of a session may have. A stored session is 1 MiB at most, `initialize` included.
const MOST_BYTES: usize = 512 << 10;

/// The registered types, and the limit of the values of one session.
#[derive(Debug, Default)]
pub(crate) struct DataTypes {
    types: Vec<DataType>,
    /// What the values of one session may be in bytes. It may change while the manager runs.
    pub(crate) max_bytes: AtomicUsize,
}

/// A value of any type.
pub(crate) type AnyValue = Arc<dyn Any + Send + Sync>;

/// Where a session keeps a value: one for each name that is registered, and for each type that is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    Name(Arc<str>),
    Type(TypeId),
}

/// One type. Values are stored as JSON.
#[derive(Clone)]
pub(crate) struct DataType {
    id: TypeId,
    type_name: &'static str,
    pub(crate) name: Arc<str>,
    pub(crate) version: u32,
    encode: fn(&(dyn Any + Send + Sync)) -> Result<Vec<u8>, serde_json::Error>,
    decode: fn(&[u8]) -> Result<AnyValue, serde_json::Error>,
}

impl DataTypes {
    /// Registers a type. It is checked with all others by [`check`](Self::check).
    pub(crate) fn register<T>(&mut self, name: &str, version: u32)
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
    {
        self.types.push(DataType {
            id: TypeId::of::<T>(),
            type_name: type_name::<T>(),
            name: name.into(),
            version,
            encode: |value| serde_json::to_vec(&value.downcast_ref::<T>()),
            decode: |bytes| Ok(Arc::new(serde_json::from_slice::<T>(bytes)?)),
        });
    }

    /// Checks the types.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let wrong = |value: &DataType, remedy: String| Err(ConfigError::new("session_data", &*value.name, remedy));
        for (place, this) in self.types.iter().enumerate() {
            if this.name.is_empty() || this.name.len() > LONGEST_NAME {
                return wrong(this, format!("allow a name of 1 to {LONGEST_NAME} bytes"));
            }
            if let Some(other) = self.types[..place].iter().find(|other| other.name == this.name) {
                return wrong(this, format!("give each type a name of its own: {} has this one", other.type_name));
            }
            if let Some(other) = self.types[..place].iter().find(|other| other.id == this.id) {
                return wrong(this, format!("register each type once: {} is {:?} too", this.type_name, other.name));
            }
        }
        Ok(())
    }

    /// Checks a limit of the values of one session, where parked sessions may have `max_parked_bytes` together.
    pub(crate) fn check_bytes(max_bytes: usize, max_parked_bytes: Option<usize>) -> Result<(), ConfigError> {
        // A parked session is more than its data.
        let most = max_parked_bytes.map_or(MOST_BYTES, |bytes| MOST_BYTES.min(bytes / 2));
        if max_bytes > most {
            let remedy = format!("allow at most {most} bytes: half of max_parked_bytes, and not over {MOST_BYTES}");
            return Err(ConfigError::new("max_session_data_bytes", max_bytes, remedy));
        }
        Ok(())
    }

    /// The registration of a type. `None` if its values stay in memory.
    pub(crate) fn of<T: 'static>(&self) -> Option<&DataType> {
        self.types.iter().find(|this| this.id == TypeId::of::<T>())
    }

    /// Where a session keeps its value of a type.
    pub(crate) fn slot<T: 'static>(&self) -> Slot {
        match self.of::<T>() {
            Some(this) => Slot::Name(Arc::clone(&this.name)),
            None => Slot::Type(TypeId::of::<T>()),
        }
    }
}

impl DataType {
    /// Encodes a value of this type.
    pub(crate) fn encode(&self, value: &(dyn Any + Send + Sync)) -> Result<Vec<u8>, serde_json::Error> {
        (self.encode)(value)
    }

    /// Decodes a value of this type.
    pub(crate) fn decode(&self, bytes: &[u8]) -> Result<AnyValue, serde_json::Error> {
        (self.decode)(bytes)
    }
}

impl fmt::Debug for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, version, type_name, .. } = self;
        f.debug_struct("DataType").field("name", name).field("version", version).field("type", type_name).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types(register: impl FnOnce(&mut DataTypes)) -> DataTypes {
        let mut types = DataTypes::default();
        register(&mut types);
        types
    }

    #[test]
    fn a_value_is_stored_as_json_and_comes_back() {
        let types = types(|types| types.register::<Vec<u8>>("numbers", 3));
        let this = types.of::<Vec<u8>>().expect("registered");
        let bytes = this.encode(&vec![1_u8, 2]).expect("encodes");
        assert_eq!((&*bytes, &*this.name, this.version), (&b"[1,2]"[..], "numbers", 3));
        assert_eq!(this.decode(&bytes).expect("decodes").downcast_ref(), Some(&vec![1_u8, 2]));
        assert!(this.decode(b"{}").is_err());
        assert!(types.of::<u8>().is_none());
    }

    #[test]
    fn names_and_types_are_registered_once() {
        let remedy = |types: DataTypes| types.check().unwrap_err().to_string();
        let twice = types(|types| {
            types.register::<u8>("a", 1);
            types.register::<u16>("a", 2);
        });
        assert_eq!(remedy(twice), "session_data is \"a\": give each type a name of its own: u8 has this one");
        let twice = types(|types| {
            types.register::<u8>("a", 1);
            types.register::<u8>("b", 1);
        });
        assert_eq!(remedy(twice), "session_data is \"b\": register each type once: u8 is \"a\" too");
        let no_name = types(|types| types.register::<u8>("", 1));
        assert_eq!(remedy(no_name), "session_data is \"\": allow a name of 1 to 64 bytes");
        assert!(types(|types| types.register::<u8>(&"a".repeat(65), 1)).check().is_err());
        assert!(types(|types| types.register::<u8>(&"a".repeat(64), 1)).check().is_ok());
    }

    #[test]
    fn the_data_of_one_session_must_fit_into_the_parking_and_a_stored_session() {
        let check = DataTypes::check_bytes;
        assert!(check(100, Some(200)).is_ok());
        let error = check(101, Some(200)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "max_session_data_bytes is 101: allow at most 100 bytes: half of max_parked_bytes, and not over 524288"
        );
        assert!(check(512 << 10, None).is_ok());
        assert!(check((512 << 10) + 1, Some(1 << 30)).is_err());
    }
}
