//! What is wrong with a part of a request, in the form and the words of pydantic.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::value::RawValue;

/// What is wrong with one part of a request. `input` is the part as the client wrote it.
#[derive(Debug, Serialize)]
pub(super) struct Problem<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    loc: Vec<Place>,
    msg: Cow<'static, str>,
    input: Cow<'a, RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ctx: Option<Context>,
}

/// One step of the way from the request to the part.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Place {
    Name(&'static str),
    Index(usize),
}

#[derive(Debug, Serialize)]
struct Context {
    error: Cause,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Cause {
    /// A Python exception, which serialises as `{}`.
    Exception {},
    Reason(Cow<'static, str>),
}

const BODY: Place = Place::Name("body");

impl<'a> Problem<'a> {
    /// There is no body.
    pub(super) fn missing_body() -> Self {
        Self::new("missing", vec![BODY], "Field required", RawValue::NULL)
    }

    /// The body is something else than an object.
    pub(super) fn not_an_object(body: &'a RawValue) -> Self {
        let msg = "Input should be a valid dictionary or object to extract fields from";
        Self::new("model_attributes_type", vec![BODY], msg, body)
    }

    /// The body is not even meant to be JSON: what it begins with, as a JSON string.
    pub(super) fn not_json_at_all(beginning: Box<RawValue>) -> Self {
        Self {
            input: Cow::Owned(beginning),
            ..Self::not_an_object(RawValue::NULL)
        }
    }

    /// The body is no JSON; `position` counts code points.
    pub(super) fn not_json(reason: Cow<'static, str>, position: usize) -> Self {
        let loc = vec![BODY, Place::Index(position)];
        let input = serde_json::from_str("{}").unwrap_or(RawValue::NULL);
        let error = Cause::Reason(reason);
        Self {
            ctx: Some(Context { error }),
            ..Self::new("json_invalid", loc, "JSON decode error", input)
        }
    }

    /// `object` lacks a field.
    pub(super) fn missing(field: &'static str, object: &'a RawValue) -> Self {
        Self::new(
            "missing",
            vec![BODY, Place::Name(field)],
            "Field required",
            object,
        )
    }

    /// A field is something else than a list.
    pub(super) fn not_a_list(field: &'static str, value: &'a RawValue) -> Self {
        let loc = vec![BODY, Place::Name(field)];
        Self::new("list_type", loc, "Input should be a valid list", value)
    }

    /// A field, or the item of a field at `index`, is something else than a string.
    pub(super) fn not_a_string(
        field: &'static str,
        index: Option<usize>,
        value: &'a RawValue,
    ) -> Self {
        let item = index.map(Place::Index);
        let loc = [BODY, Place::Name(field)].into_iter().chain(item).collect();
        Self::new("string_type", loc, "Input should be a valid string", value)
    }

    /// A field is neither true nor false.
    pub(super) fn not_a_flag(field: &'static str, value: &'a RawValue) -> Self {
        let loc = vec![BODY, Place::Name(field)];
        Self::new("bool_type", loc, "Input should be a valid boolean", value)
    }

    /// A field is no whole number above 0.
    pub(super) fn not_a_count(field: &'static str, value: &'a RawValue) -> Self {
        let loc = vec![BODY, Place::Name(field)];
        Self::new(
            "int_type",
            loc,
            "Input should be a whole number above 0",
            value,
        )
    }

    /// A field exceeds a limit.
    pub(super) fn excess(field: &'static str, what: &str, value: &'a RawValue) -> Self {
        let loc = vec![BODY, Place::Name(field)];
        let error = Cause::Exception {};
        Self {
            ctx: Some(Context { error }),
            ..Self::new("value_error", loc, format!("Value error, {what}"), value)
        }
    }

    fn new(
        kind: &'static str,
        loc: Vec<Place>,
        msg: impl Into<Cow<'static, str>>,
        input: &'a RawValue,
    ) -> Self {
        Self {
            kind,
            loc,
            msg: msg.into(),
            input: Cow::Borrowed(input),
            ctx: None,
        }
    }
}
