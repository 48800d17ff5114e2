//! `get`: tables made by the server, or whole objects.

use std::io::Write;

use amphipod_client::Query;
use futures::StreamExt;
use http::Request;
use serde_json::{Value, json};

use crate::Error;
use crate::context::Session;
use crate::error::usage;
use crate::output::{self, Format};
use crate::select::Selected;
use crate::table::{self, View, Widths};
use crate::watch::Lines;

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
const UNSAID: &str = "You must specify the type of resource to get. Use \"kubectl api-resources\" for a complete list of supported resources.

error: Required resource not specified.
Use \"kubectl explain <resource>\" for a detailed description of that resource (e.g. kubectl explain pods).
See 'kubectl get -h' for help and examples";
/// kubectl's --chunk-size.
const CHUNK: &str = "500";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// TYPE[,TYPE...] [NAME...] or TYPE/NAME...
    resources: Vec<String>,
    /// Output format: json, yaml, name, wide.
    #[arg(short, long)]
    output: Option<String>,
    /// List the objects across all namespaces.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Selector (label query) to filter on.
    #[arg(short = 'l', long)]
    selector: Option<String>,
    /// Selector (field query) to filter on.
    #[arg(long)]
    field_selector: Option<String>,
    /// After listing, watch for changes.
    #[arg(short, long)]
    watch: bool,
    /// Show all labels as the last column.
    #[arg(long)]
    show_labels: bool,
    /// Labels to present as columns.
    #[arg(short = 'L', long, value_delimiter = ',')]
    label_columns: Vec<String>,
    /// Don't print headers.
    #[arg(long)]
    no_headers: bool,
    /// Succeed quietly when a named object does not exist.
    #[arg(long)]
    ignore_not_found: bool,
    /// Raw URI to request from the server: its answer is printed as it comes.
    #[arg(long, value_name = "URI")]
    raw: Option<String>,
}

pub async fn run(session: &Session, args: Args) -> Result<(), Error> {
    if let Some(uri) = &args.raw {
        check_raw(uri, &args)?;
        return raw(session, uri).await;
    }
    if args.resources.is_empty() {
        return Err(Error::Plain(UNSAID.to_owned()));
    }
    let selected = session.select(&args.resources).await?;
    match Format::parse(args.output.as_deref())? {
        Format::Table | Format::Wide => tables(session, &args, &selected).await,
        format => objects(session, &args, &selected, format).await,
    }
}

/// In kubectl's words: what else is said would be ignored.
fn check_raw(uri: &str, args: &Args) -> Result<(), Error> {
    let fault = if args.watch || args.selector.is_some() {
        "--raw may not be specified with other flags that filter the server request or alter the output"
    } else if args.output.is_some() {
        "--raw and --output are mutually exclusive"
    } else if !args.resources.is_empty() {
        "arguments may not be passed when --raw is specified"
    } else if !uri.starts_with('/') || uri.parse::<http::Uri>().is_err() {
        let fault = format!("--raw must be a valid URL path: parse {uri:?}: invalid URI for request");
        return Err(usage(fault));
    } else {
        return Ok(());
    };
    Err(usage(fault))
}

/// An answer may have no end (a watch), or be larger than memory should hold.
async fn raw(session: &Session, uri: &str) -> Result<(), Error> {
    let request = Request::get(uri).header("accept", "application/json, */*").body(Vec::new())?;
    let mut chunks = session.client.stream(request).await?;
    let mut out = std::io::stdout().lock();
    while let Some(chunk) = chunks.next().await {
        out.write_all(&chunk?)?;
        out.flush()?;
    }
    Ok(())
}

fn query(args: &Args) -> Query {
    let mut query = Query::default();
    query.add_some("labelSelector", args.selector.as_deref());
    query.add_some("fieldSelector", args.field_selector.as_deref());
    query
}

fn namespace<'a>(session: &'a Session, args: &Args) -> Option<&'a str> {
    (!args.all_namespaces).then_some(session.namespace.as_str())
}

/// The tables (or objects) of a selection: one per name, or pages of the list.
async fn fetch(
    session: &Session,
    args: &Args,
    selected: &Selected,
    accept: &str,
) -> Result<Vec<Value>, Error> {
    let namespace = namespace(session, args);
    let mut found = Vec::new();
    if !selected.names.is_empty() {
        for name in &selected.names {
            match session.call("GET", &selected.kind.path(namespace, name), accept, None).await {
                Ok(bytes) => found.push(serde_json::from_slice(&bytes)?),
                Err(Error::Client(e)) if args.ignore_not_found && e.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        return Ok(found);
    }
    let mut token = String::new();
    loop {
        let mut query = query(args);
        query.add("limit", CHUNK);
        if !token.is_empty() {
            query.add("continue", &token);
        }
        let path = format!("{}{}", selected.kind.path(namespace, ""), query.as_str());
        let page: Value = serde_json::from_slice(&session.call("GET", &path, accept, None).await?)?;
        token = page.pointer("/metadata/continue").and_then(Value::as_str).unwrap_or("").to_owned();
        found.push(page);
        if token.is_empty() {
            return Ok(found);
        }
    }
}

async fn tables(session: &Session, args: &Args, selected: &[Selected]) -> Result<(), Error> {
    let mut anything = false;
    for one in selected {
        let view = View {
            wide: args.output.as_deref() == Some("wide"),
            namespace: args.all_namespaces && one.kind.namespaced,
            show_labels: args.show_labels,
            label_columns: args.label_columns.clone(),
            name_prefix: if selected.len() > 1 { format!("{}/", one.kind.display()) } else { String::new() },
        };
        let pages = fetch(session, args, one, TABLE).await?;
        let mut rows: Vec<Vec<String>> = pages.iter().flat_map(|page| table::rows(page, &view)).collect();
        let mut widths = Widths::default();
        if !rows.is_empty() {
            if anything {
                println!();
            }
            anything = true;
            if !args.no_headers {
                rows.insert(0, table::header(&pages[0], &view));
            }
            print!("{}", widths.print(&rows));
        }
        if args.watch {
            let version =
                pages.last().and_then(|p| p.pointer("/metadata/resourceVersion")).and_then(Value::as_str);
            return follow(
                session,
                args,
                one,
                &view,
                widths,
                &pages[0]["columnDefinitions"],
                version.unwrap_or(""),
            )
            .await;
        }
    }
    if !anything && !args.ignore_not_found {
        let place = match (selected, args.all_namespaces) {
            ([one], false) if one.kind.namespaced => format!(" in {} namespace.", session.namespace),
            ([_], _) => String::new(),
            (_, false) => format!(" in {} namespace.", session.namespace),
            _ => String::new(),
        };
        eprintln!("No resources found{place}");
    }
    Ok(())
}

async fn follow(
    session: &Session,
    args: &Args,
    one: &Selected,
    view: &View,
    mut widths: Widths,
    columns: &Value,
    version: &str,
) -> Result<(), Error> {
    let mut query = query(args);
    if let [name] = one.names.as_slice() {
        query = Query::default();
        query.add("fieldSelector", &format!("metadata.name={name}"));
    }
    query.add("watch", "true");
    query.add("resourceVersion", version);
    let path = format!("{}{}", one.kind.path(namespace(session, args), ""), query.as_str());
    let mut lines = Lines::open(&session.client, &path, TABLE).await?;
    while let Some((kind, mut object)) = lines.next().await? {
        if kind == "ERROR" {
            return Err(usage(object["message"].as_str().unwrap_or("the watch failed")));
        }
        // Only the first frame of a watch carries the column definitions.
        object["columnDefinitions"] = columns.clone();
        print!("{}", widths.print(&table::rows(&object, view)));
    }
    Ok(())
}

async fn objects(session: &Session, args: &Args, selected: &[Selected], format: Format) -> Result<(), Error> {
    let mut items = Vec::new();
    let single = matches!(selected, [one] if one.names.len() == 1);
    for one in selected {
        for mut found in fetch(session, args, one, "application/json").await? {
            match found.get_mut("items").and_then(Value::as_array_mut) {
                Some(list) => items.extend(list.drain(..).map(|mut item| {
                    // Items of a list carry no type of their own.
                    item["apiVersion"] = one.kind.api_version().into();
                    item["kind"] = one.kind.kind.clone().into();
                    (one.kind.clone(), item)
                })),
                None => items.push((one.kind.clone(), found)),
            }
        }
    }
    match (format, single, items.as_slice()) {
        (Format::Name, _, items) => {
            for (kind, item) in items {
                print!("{}", output::object(kind, item, Format::Name)?);
            }
        }
        (_, true, [(kind, item)]) => print!("{}", output::object(kind, item, format)?),
        (_, true, []) => {}
        (_, _, items) => {
            let list: Vec<&Value> = items.iter().map(|(_, item)| item).collect();
            let list = json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": list});
            let Some(kind) = selected.first().map(|s| &s.kind) else { return Ok(()) };
            print!("{}", output::object(kind, &list, format)?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn raw_is_asked_for_alone() {
        let fault = |line: &str| {
            let Line { args } = Line::parse_from(line.split(' '));
            check_raw(args.raw.as_deref().expect("given"), &args).err().map(|fault| fault.to_string())
        };
        assert_eq!(fault("get --raw /apis/apps/v1?limit=1"), None);
        let told = |line: &str, text: &str| {
            let fault = fault(line).expect("refused");
            assert!(fault.starts_with("error: ") && fault.contains(text), "{fault}");
        };
        told("get --raw /api -w", "other flags that filter");
        told("get --raw /api -l a=b", "other flags that filter");
        told("get --raw /api -o yaml", "mutually exclusive");
        told("get --raw /api pods", "arguments may not be passed");
        told("get --raw api/v1", "--raw must be a valid URL path: parse \"api/v1\"");
        told("get --raw /a<b", "--raw must be a valid URL path");
    }
}
