//! What a command is about: `TYPE NAME...`, `TYPE/NAME ...`, `TYPE,TYPE`, or a category.

use serde_json::Value;

use crate::Error;
use crate::context::Session;
use crate::discovery::Kind;
use crate::error::usage;

/// A kind and the objects of it asked for by name; none means all.
#[derive(Clone, Debug)]
pub struct Selected {
    pub kind: Kind,
    pub names: Vec<String>,
}

/// Splits the words of a command line; pure, so that the rules can be tested.
fn split(words: &[String]) -> Result<Vec<(String, Vec<String>)>, Error> {
    let Some(first) = words.first() else {
        return Err(usage("you must specify the type of resource to get, e.g. pods"));
    };
    if first.contains('/') {
        let mut found: Vec<(String, Vec<String>)> = Vec::new();
        for word in words {
            let Some((kind, name)) = word.split_once('/').filter(|(k, n)| !k.is_empty() && !n.is_empty())
            else {
                return Err(usage(
                    "there is no need to specify a resource type as a separate argument when passing \
                                  arguments in resource/name form (e.g. 'get resource/<resource_name>' instead of \
                                  'get resource resource/<resource_name>'",
                ));
            };
            match found.last_mut().filter(|(last, _)| last == kind) {
                Some((_, names)) => names.push(name.to_owned()),
                None => found.push((kind.to_owned(), vec![name.to_owned()])),
            }
        }
        return Ok(found);
    }
    if let Some(word) = words[1..].iter().find(|w| w.contains('/')) {
        return Err(usage(format!(
            "there is no need to specify a resource type as a separate argument: {word}"
        )));
    }
    Ok(first.split(',').map(|kind| (kind.to_owned(), words[1..].to_vec())).collect())
}

impl Session {
    pub async fn select(&self, words: &[String]) -> Result<Vec<Selected>, Error> {
        let mut selected = Vec::new();
        for (word, names) in split(words)? {
            let category = self.discovery().await?.category(&word);
            if category.is_empty() {
                selected.push(Selected { kind: self.kind(&word).await?, names });
            } else {
                selected.extend(category.into_iter().map(|kind| Selected { kind, names: names.clone() }));
            }
        }
        Ok(selected)
    }

    /// Exactly one object, by `TYPE NAME`, `TYPE/NAME`, or `NAME` alone for `default_kind`.
    pub async fn one(&self, words: &[String], default_kind: &str) -> Result<(Kind, String), Error> {
        let words = match words {
            [name] if !name.contains('/') && !default_kind.is_empty() => {
                vec![default_kind.to_owned(), name.clone()]
            }
            other => other.to_vec(),
        };
        let mut selected = self.select(&words).await?;
        match (selected.pop(), selected.is_empty()) {
            (Some(Selected { kind, mut names }), true) if names.len() == 1 => Ok((kind, names.remove(0))),
            _ => Err(usage("exactly one resource with its name is required, e.g. deployment/demo")),
        }
    }

    /// The pod a word means: its own, or the first one behind a workload or service.
    pub async fn pod(&self, word: &str) -> Result<String, Error> {
        let (kind, name) = self.one(&[word.to_owned()], "pods").await?;
        if kind.plural == "pods" {
            return Ok(name);
        }
        let object = self.get(&kind.path(Some(&self.namespace), &name)).await?;
        let labels = match kind.plural.as_str() {
            "services" | "replicationcontrollers" => object.pointer("/spec/selector"),
            _ => object.pointer("/spec/selector/matchLabels"),
        };
        let Some(labels) = labels.and_then(Value::as_object) else {
            return Err(usage(format!("{} {name} selects no pods", kind.display())));
        };
        let selector: Vec<String> =
            labels.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or(""))).collect();
        let mut query = amphipod_client::Query::default();
        query.add("labelSelector", &selector.join(","));
        let pods = self.kind("pods").await?;
        let list = self.get(&format!("{}{}", pods.path(Some(&self.namespace), ""), query.as_str())).await?;
        let mut items: Vec<&Value> = list["items"].as_array().into_iter().flatten().collect();
        // Running ones first, as kubectl prefers.
        items.sort_by_key(|pod| pod.pointer("/status/phase").and_then(Value::as_str) != Some("Running"));
        if let [first, _, ..] = items.as_slice() {
            let name = amphipod_api::object::name(first);
            eprintln!("Found {} pods, using pod/{name}", items.len());
        }
        let first = items.first().map(|pod| amphipod_api::object::name(pod).to_owned());
        first.ok_or_else(|| usage(format!("no pods found for {} {name}", kind.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn command_lines_are_split_as_kubectl_does() {
        let cases = [
            ("pods", vec![("pods", vec![])]),
            ("pods a b", vec![("pods", vec!["a", "b"])]),
            ("pods,svc", vec![("pods", vec![]), ("svc", vec![])]),
            ("pod/a pod/b svc/c", vec![("pod", vec!["a", "b"]), ("svc", vec!["c"])]),
        ];
        for (text, expected) in cases {
            let found = split(&words(text)).unwrap();
            let found: Vec<(&str, Vec<&str>)> =
                found.iter().map(|(k, n)| (k.as_str(), n.iter().map(String::as_str).collect())).collect();
            assert_eq!(found, expected, "{text}");
        }
        assert!(split(&words("pod/a b")).is_err());
        assert!(split(&words("pods svc/a")).is_err());
        assert!(split(&[]).is_err());
    }
}
