//! `why`: where a pod goes or would go, and why; also with other requests, and with nodes added, taken
//! away or changed. The server decides and explains; here the answer is laid out for people.

mod text;

use std::path::PathBuf;

use amphipod_api::scheduling_review::{
    AddedNodes, Changes, GROUP, KIND, PLURAL, Spec, Status, Taint, TaintedNode, VERSION,
};
use serde_json::json;

use crate::Error;
use crate::context::Session;
use crate::error::usage;
use crate::output::{self, Format};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// pod NAME, or pod/NAME; none with --filename
    resource: Vec<String>,
    /// A pod that does not exist, as a manifest.
    #[arg(short, long)]
    filename: Option<PathBuf>,
    /// As if its containers asked for this together: cpu=500m,memory=1Gi
    #[arg(long, value_delimiter = ',')]
    requests: Vec<String>,
    /// As if there were so many nodes more.
    #[arg(long)]
    add_nodes: Option<u32>,
    /// The node that those added are like.
    #[arg(long, requires = "add_nodes")]
    like: Option<String>,
    /// As if these nodes were not there.
    #[arg(long, value_delimiter = ',')]
    remove_nodes: Vec<String>,
    /// As if these nodes were cordoned.
    #[arg(long, value_delimiter = ',')]
    cordon: Vec<String>,
    /// As if these nodes were uncordoned.
    #[arg(long, value_delimiter = ',')]
    uncordon: Vec<String>,
    /// As if a node had a taint: NODE:KEY=VALUE:EFFECT
    #[arg(long)]
    taint: Vec<String>,
    /// Output format: json or yaml.
    #[arg(short, long)]
    output: Option<String>,
}

pub async fn run(session: &Session, args: Args) -> Result<(), Error> {
    let format = Format::parse(args.output.as_deref())?;
    let (namespace, spec) = args.spec(session).await?;
    let kind = session.kind(&format!("{PLURAL}.{GROUP}")).await?;
    let review = json!({"apiVersion": format!("{GROUP}/{VERSION}"), "kind": KIND, "spec": spec});
    let answer = session.send("POST", &kind.path(Some(&namespace), ""), &review).await?;
    if matches!(format, Format::Yaml | Format::Json) {
        print!("{}", output::object(&kind, &answer, format)?);
        return Ok(());
    }
    let status: Status = serde_json::from_value(answer["status"].clone())?;
    print!("{}", text::of(&status));
    Ok(())
}

impl Args {
    /// In which namespace what is asked.
    async fn spec(&self, session: &Session) -> Result<(String, Spec), Error> {
        let changes = self.changes()?;
        let Some(file) = &self.filename else {
            let (kind, name) = session.one(&self.resource, "pods").await?;
            if kind.plural != "pods" {
                return Err(usage(format!("only pods are scheduled, not {}", kind.plural)));
            }
            let spec = Spec { pod_name: name, changes, ..Spec::default() };
            return Ok((session.namespace.clone(), spec));
        };
        if !self.resource.is_empty() {
            return Err(usage("a pod is either named or described by --filename"));
        }
        let mut items = session.manifests(&[file.display().to_string()], false).await?;
        match (items.pop(), items.is_empty()) {
            (Some(item), true) if item.kind.plural == "pods" => {
                Ok((item.namespace, Spec { pod: Some(item.object), changes, ..Spec::default() }))
            }
            _ => Err(usage("--filename: exactly one object of kind Pod is required")),
        }
    }

    fn changes(&self) -> Result<Changes, Error> {
        let requests = self.requests.iter().map(|text| {
            let (resource, amount) = text
                .split_once('=')
                .ok_or_else(|| usage(format!("--requests: {text:?} is not RESOURCE=AMOUNT")))?;
            Ok((resource.to_owned(), amount.to_owned()))
        });
        let added = self.add_nodes.map(|count| AddedNodes {
            count,
            like: self.like.clone().unwrap_or_default(),
            node: None,
        });
        Ok(Changes {
            requests: requests.collect::<Result<_, Error>>()?,
            add_nodes: added.into_iter().collect(),
            remove_nodes: self.remove_nodes.clone(),
            cordon_nodes: self.cordon.clone(),
            uncordon_nodes: self.uncordon.clone(),
            taint_nodes: self.taint.iter().map(|text| taint(text)).collect::<Result<_, Error>>()?,
        })
    }
}

/// `NODE:KEY=VALUE:EFFECT`, the value left out where there is none.
fn taint(text: &str) -> Result<TaintedNode, Error> {
    let parts = text.split_once(':').and_then(|(node, taint)| Some((node, taint.rsplit_once(':')?)));
    let (node, (taint, effect)) =
        parts.ok_or_else(|| usage(format!("--taint: {text:?} is not NODE:KEY=VALUE:EFFECT")))?;
    let (key, value) = taint.split_once('=').unwrap_or((taint, ""));
    let taint = Taint { key: key.to_owned(), value: value.to_owned(), effect: effect.to_owned() };
    Ok(TaintedNode { node_name: node.to_owned(), taint })
}

#[cfg(test)]
mod tests;
