//! `set image`.

use clap::Subcommand;
use serde_json::{Value, json};

use crate::Error;
use crate::context::Session;
use crate::error::usage;
use crate::output;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Update the image of a pod template
    Image {
        /// TYPE/NAME CONTAINER=IMAGE...; * names every container
        #[arg(required = true)]
        words: Vec<String>,
    },
}

pub async fn run(session: &Session, args: Args) -> Result<(), Error> {
    let What::Image { words } = args.what;
    let (changes, resource): (Vec<String>, Vec<String>) = words.into_iter().partition(|w| w.contains('='));
    let (kind, name) = session.one(&resource, "").await?;
    let path = kind.path(Some(&session.namespace), &name);
    let object = session.get(&path).await?;
    let pointer = if kind.plural == "pods" { "/spec" } else { "/spec/template/spec" };
    let Some(patch) = images(&object, pointer, &changes)? else { return Ok(()) };
    let patch = if kind.plural == "pods" {
        json!({"spec": patch})
    } else {
        json!({"spec": {"template": {"spec": patch}}})
    };
    let path = format!("{path}?fieldManager=kubectl-set");
    session.patch(&path, "application/strategic-merge-patch+json", &patch).await?;
    output::confirm(&kind, &name, "image updated");
    Ok(())
}

/// The patch of the pod spec, `None` when every image is as wanted already.
fn images(object: &Value, pointer: &str, changes: &[String]) -> Result<Option<Value>, Error> {
    let spec = object.pointer(pointer).cloned().unwrap_or_default();
    let mut patch = serde_json::Map::new();
    let mut known = false;
    for list in ["initContainers", "containers"] {
        let mut changed = Vec::new();
        for container in spec[list].as_array().into_iter().flatten() {
            let name = container["name"].as_str().unwrap_or("");
            for change in changes {
                let (wanted, image) = change.split_once('=').unwrap_or((change, ""));
                if wanted == name || (wanted == "*" && list == "containers") {
                    known = true;
                    if container["image"] != image {
                        changed.push(json!({"name": name, "image": image}));
                    }
                }
            }
        }
        if !changed.is_empty() {
            patch.insert(list.to_owned(), changed.into());
        }
    }
    if !known {
        let wanted = changes.first().and_then(|c| c.split_once('=')).map_or("", |(name, _)| name);
        return Err(usage(format!("unable to find container named {wanted:?}")));
    }
    Ok((!patch.is_empty()).then_some(Value::Object(patch)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changed_images_are_patched() {
        let object =
            json!({"spec": {"containers": [{"name": "a", "image": "x:1"}, {"name": "b", "image": "y:1"}]}});
        let set = |change: &str| images(&object, "/spec", &[change.to_owned()]);
        assert_eq!(set("a=x:2").unwrap(), Some(json!({"containers": [{"name": "a", "image": "x:2"}]})));
        assert_eq!(set("a=x:1").unwrap(), None);
        assert_eq!(set("*=z").unwrap().unwrap()["containers"].as_array().unwrap().len(), 2);
        assert!(set("nope=x").unwrap_err().to_string().contains("\"nope\""));
    }
}
