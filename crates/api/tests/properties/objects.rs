//! Objects of any kind from the schema facts. They are as a server holds them: no nulls but those
//! of JSON among JSON, no empty lists, every value in its canonical form, no zeros (which protobuf
//! cannot tell from absence).

use amphipod_api::codec::go_duration;
use amphipod_api::schema::{Field, Message, Scalar, Shape, Special};
use serde_json::{Map, Value, json};

use crate::rng::Rng;

/// Below this objects hold only what is not nested.
const MAX_DEPTH: usize = 7;

pub fn object(rng: &mut Rng, message: &'static Message) -> Value {
    let mut value = plain(rng, message, 0);
    value["apiVersion"] = match message.group {
        "" => message.version.into(),
        group => format!("{group}/{}", message.version).into(),
    };
    value["kind"] = message.kind.into();
    value
}

fn plain(rng: &mut Rng, message: &'static Message, depth: usize) -> Value {
    let mut map = Map::new();
    for field in message.json_fields() {
        // Fewer the deeper, so that objects stay small.
        let wanted = rng.one_in(1 + depth) || field.required;
        if wanted && (depth < MAX_DEPTH || field.message().is_none_or(|m| m.special != Special::Plain)) {
            map.insert(field.name.to_owned(), of_field(rng, field, depth));
        }
    }
    Value::Object(map)
}

fn of_field(rng: &mut Rng, field: &'static Field, depth: usize) -> Value {
    match field.shape {
        Shape::Single => single(rng, field, depth),
        Shape::List => (0..1 + rng.below(2)).map(|_| item(rng, field, depth)).collect(),
        Shape::Map => {
            let entries = (0..1 + rng.below(2)).map(|_| (text(rng), item(rng, field, depth)));
            Value::Object(entries.collect())
        }
    }
}

/// Of a list or map; in those of JSON null is as good as any.
fn item(rng: &mut Rng, field: &'static Field, depth: usize) -> Value {
    let may_be_null = field.message().is_some_and(|m| m.special == Special::Json);
    if may_be_null && rng.one_in(3) { Value::Null } else { single(rng, field, depth) }
}

fn text(rng: &mut Rng) -> String {
    let alphabet: Vec<char> = "abz09-./_ \"\\\n<&ä漢🦐".chars().collect();
    (0..1 + rng.below(12)).map(|_| rng.pick(&alphabet)).collect()
}

fn single(rng: &mut Rng, field: &'static Field, depth: usize) -> Value {
    match field.scalar {
        Scalar::Bool => true.into(),
        Scalar::Int32 => rng.pick(&[1, -1, 80, i32::MAX, i32::MIN]).into(),
        Scalar::Int64 => rng.pick(&[1, -1, 1 << 40, i64::MAX, i64::MIN]).into(),
        Scalar::Double => rng.pick(&[0.5, -1.25, 1e300]).into(),
        Scalar::Text => text(rng).into(),
        Scalar::Bytes => rng.pick(&["AA==", "aGVsbG8=", "/+8="]).into(),
        Scalar::Msg(_) => of_message(rng, field.message().expect("a message"), depth + 1),
    }
}

fn of_message(rng: &mut Rng, message: &'static Message, depth: usize) -> Value {
    let schema = |rng: &mut Rng| {
        let schema = message.fields.iter().find_map(Field::message).expect("a schema");
        plain(rng, schema, depth.max(4))
    };
    match message.special {
        Special::Plain => plain(rng, message, depth),
        Special::Time => format!(
            "20{:02}-0{}-1{}T0{}:30:00Z",
            10 + rng.below(90),
            1 + rng.below(9),
            rng.below(10),
            rng.below(10)
        )
        .into(),
        Special::MicroTime => format!("2026-01-02T03:04:05.{:06}Z", rng.below(1_000_000)).into(),
        Special::Duration => go_duration(rng.pick(&[1, 1_500_000_000, 3_600_000_000_000, -5_000])).into(),
        Special::IntOrString if rng.one_in(2) => (1 + rng.below(9000)).into(),
        Special::IntOrString => text(rng).into(),
        Special::Quantity => rng.pick(&["1", "500m", "3Gi", "1500Mi", "12E", "1e3", "7n", "-2k"]).into(),
        Special::RawExtension => json!({"a": [1, {"b": null}], "kind": "K"}),
        Special::FieldsV1 => json!({"f:a": {".": {}, "k:{\"name\":\"x\"}": {}}}),
        Special::Json => rng.pick(&["1", "\"x\"", "[1,2]", "{\"a\":1.5}", "true"]).parse().expect("JSON"),
        Special::Items => json!([text(rng), text(rng)]),
        Special::SchemaOrArray if rng.one_in(2) => Value::Array(vec![schema(rng), schema(rng)]),
        Special::SchemaOrBool if rng.one_in(2) => rng.one_in(2).into(),
        Special::SchemaOrStrings if rng.one_in(2) => json!([text(rng)]),
        _ => schema(rng),
    }
}
