//! Claims as protobuf's JSON types. A number becomes a double, as in every JSON reader that has only those.

use std::collections::BTreeMap;

use mesh_auth::claims::{Number, Object, Value};
use prost_types::value::Kind;
use prost_types::{ListValue, Struct};

/// The members of `object`.
pub(super) fn structure(object: &Object) -> Struct {
    let fields: BTreeMap<_, _> = object
        .iter()
        .map(|(name, value)| (name.to_owned(), any(value)))
        .collect();
    Struct { fields }
}

fn any(value: &Value) -> prost_types::Value {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(*value),
        Value::Number(number) => Kind::NumberValue(double(number)),
        Value::String(text) => Kind::StringValue(text.to_string()),
        Value::Array(values) => Kind::ListValue(ListValue {
            values: values.iter().map(any).collect(),
        }),
        Value::Object(object) => Kind::StructValue(structure(object)),
    };
    prost_types::Value { kind: Some(kind) }
}

fn double(number: &Number) -> f64 {
    match number {
        #[allow(clippy::cast_precision_loss)] // The type on the wire has no more.
        Number::Integer(value) => *value as f64,
        Number::Other(text) => match text.parse::<f64>() {
            Ok(value) if value.is_finite() => value,
            // Beyond what a double holds: the nearest there is, since the type knows no infinity.
            _ if text.starts_with('-') => f64::MIN,
            _ => f64::MAX,
        },
    }
}

#[cfg(test)]
mod tests {
    use mesh_auth::claims;

    use super::*;

    #[test]
    fn claims_become_what_protobuf_calls_json() {
        let text = br#"{"a":[1,"x",null,true,{"b":-1.5}],"c":1e400,"d":-1e400}"#;
        let fields = structure(&claims::parse(text).expect("JSON")).fields;
        let kind = |value: &prost_types::Value| value.kind.clone().expect("a kind");
        assert_eq!(kind(&fields["c"]), Kind::NumberValue(f64::MAX));
        assert_eq!(kind(&fields["d"]), Kind::NumberValue(f64::MIN));
        let Kind::ListValue(list) = kind(&fields["a"]) else {
            panic!("{:?}", fields["a"]);
        };
        let [one, x, null, yes, inner] = &list.values[..] else {
            panic!("{list:?}");
        };
        assert_eq!(kind(one), Kind::NumberValue(1.0));
        assert_eq!(kind(x), Kind::StringValue("x".into()));
        assert_eq!(kind(null), Kind::NullValue(0));
        assert_eq!(kind(yes), Kind::BoolValue(true));
        let Kind::StructValue(inner) = kind(inner) else {
            panic!("{inner:?}");
        };
        assert_eq!(kind(&inner.fields["b"]), Kind::NumberValue(-1.5));
    }
}
