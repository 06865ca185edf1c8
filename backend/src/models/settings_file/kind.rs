//! What a setting may be, in the words of those who write it.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// A value of a settings file.
pub(crate) trait Setting: DeserializeOwned {
    /// Continues "must be".
    const KIND: &'static str;
}

impl Setting for bool {
    const KIND: &'static str = "true or false";
}

impl Setting for u32 {
    const KIND: &'static str = "a whole number from 0 to 4294967295";
}

impl Setting for usize {
    const KIND: &'static str = "a whole number of 0 or more";
}

impl Setting for i64 {
    const KIND: &'static str = "a whole number";
}

impl Setting for f32 {
    const KIND: &'static str = "a number";
}

impl Setting for f64 {
    const KIND: &'static str = f32::KIND;
}

impl Setting for String {
    const KIND: &'static str = "a text";
}

impl Setting for Value {
    const KIND: &'static str = "any value";
}

impl Setting for Vec<String> {
    const KIND: &'static str = "a list of texts";
}

impl Setting for Vec<usize> {
    const KIND: &'static str = "a list of whole numbers of 0 or more";
}

impl Setting for Map<String, Value> {
    const KIND: &'static str = "an object";
}

impl Setting for BTreeMap<String, String> {
    const KIND: &'static str = "an object of texts";
}

impl Setting for BTreeMap<String, Option<String>> {
    const KIND: &'static str = "an object of texts or null";
}
