//! The configuration as a JSON Schema (draft 2020-12), for editors, and as a page to read.
//!
//! `schema.json` is written by hand; tests hold it to what the reader asks for and takes.

mod reference;

/// The schema, as JSON.
pub const SCHEMA: &str = include_str!("../schema.json");

/// The reference of all keys, in Markdown.
///
/// # Errors
/// Never, since the schema is JSON, which a test checks.
pub fn reference() -> Result<String, serde_yaml::Error> {
    // Read as YAML, which JSON is, since that keeps the order of the keys.
    serde_yaml::from_str(SCHEMA).map(|schema| reference::page(&schema))
}
