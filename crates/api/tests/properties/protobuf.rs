//! JSON to protobuf and back is the identity, for every kind and by both writers.

use amphipod_api::codec::{self, Expected, FieldValidation};
use amphipod_api::protobuf::{self, Writer};
use amphipod_api::schema;
use serde_json::Value;

use crate::rng::Rng;
use crate::{for_seeds, objects};

/// What says which kind an object is.
const TYPE: [&str; 2] = ["apiVersion", "kind"];
/// Seeds tried of each kind.
const SEEDS: u64 = 6;

#[test]
fn json_to_protobuf_to_json_is_the_identity() {
    let kinds: Vec<_> = schema::messages().iter().filter(|m| m.is_root()).collect();
    assert!(kinds.len() > 100, "{} kinds", kinds.len());
    for_seeds(SEEDS, |seed| {
        for (number, message) in kinds.iter().enumerate() {
            let object = objects::object(&mut Rng::new(seed << 16 | number as u64), message);
            let encoded = protobuf::encode(&object).unwrap_or_else(|e| panic!("{}: {e}", message.name));
            let decoded = protobuf::decode(&encoded).unwrap_or_else(|e| panic!("{}: {e}", message.name));
            assert_eq!(decoded, object, "{}", message.name);
            let Some(writer) = Writer::new(&message.api_version(), message.kind) else { continue };
            let streamed = writer.message(object.to_string().as_bytes());
            let streamed = streamed.unwrap_or_else(|e| panic!("{}: {e}", message.name));
            let enveloped = writer.enveloped(&streamed);
            let decoded = protobuf::decode(&enveloped).unwrap_or_else(|e| panic!("{}: {e}", message.name));
            assert_eq!(decoded, object, "{} as it is served", message.name);
            assert_eq!(enveloped.len(), encoded.len(), "{}: both write the same fields", message.name);
        }
    });
}

/// Puts null in the place of some of what is there.
fn sprinkle(rng: &mut Rng, value: &mut Value) {
    let inside: Vec<&mut Value> = match value {
        Value::Array(items) => items.iter_mut().collect(),
        Value::Object(members) => {
            members.iter_mut().filter(|(key, _)| !TYPE.contains(&key.as_str())).map(|(_, v)| v).collect()
        }
        _ => return,
    };
    for value in inside {
        if rng.one_in(6) {
            *value = Value::Null;
        } else {
            sprinkle(rng, value);
        }
    }
}

#[test]
fn both_writers_treat_nulls_alike() {
    let kinds: Vec<_> = schema::messages().iter().filter(|m| m.is_root()).collect();
    for_seeds(SEEDS, |seed| {
        for (number, message) in kinds.iter().enumerate() {
            let Some(writer) = Writer::new(&message.api_version(), message.kind) else { continue };
            let rng = &mut Rng::new(seed << 16 | number as u64);
            let mut object = objects::object(rng, message);
            sprinkle(rng, &mut object);
            let streamed = writer.message(object.to_string().as_bytes());
            let streamed = streamed.map(|streamed| writer.enveloped(&streamed));
            match (streamed, protobuf::encode(&object)) {
                (Ok(streamed), Ok(encoded)) => {
                    assert_eq!(protobuf::decode(&streamed), protobuf::decode(&encoded), "{object}");
                    assert_eq!(streamed.len(), encoded.len(), "{object}");
                }
                (streamed, encoded) => assert_eq!(streamed.is_ok(), encoded.is_ok(), "{object}"),
            }
        }
    });
}

#[test]
fn what_a_server_holds_decodes_to_itself() {
    let kinds: Vec<_> = schema::messages().iter().filter(|m| m.is_root()).collect();
    for_seeds(SEEDS, |seed| {
        for (number, message) in kinds.iter().enumerate() {
            let object = objects::object(&mut Rng::new(seed << 16 | number as u64), message);
            let expected = Expected::builtin(message.group, message.version, message.kind);
            let texts = [(object.to_string(), codec::JSON), (codec::yaml::to_string(&object), codec::YAML)];
            for (text, form) in texts {
                let decoded = codec::decode(text.as_bytes(), form, expected, FieldValidation::Strict);
                let decoded = decoded.unwrap_or_else(|e| panic!("{} {form}: {}", message.name, e.message));
                assert_eq!(decoded.value, object, "{} {form}", message.name);
            }
        }
    });
}
