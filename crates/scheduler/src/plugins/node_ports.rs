//! Two pods cannot have one host port; the address for all clashes with every address.

use crate::framework::{Candidate, Event, Question, Refusal, Verdict, View};
use crate::pod::HostPort;
use crate::symbols::Symbols;

pub const NAME: &str = "NodePorts";
/// Binds on all addresses; what a pod that names none asks for.
pub const ANY_ADDRESS: &str = "0.0.0.0";

fn clash(symbols: &Symbols, a: &HostPort, b: &HostPort) -> bool {
    let any = |port: &HostPort| symbols.text(port.address) == ANY_ADDRESS;
    a.port == b.port && a.protocol == b.protocol && (a.address == b.address || any(a) || any(b))
}

/// The ports the pod asks for that are taken.
pub fn taken<'a>(view: &'a View, candidate: &'a Candidate) -> impl Iterator<Item = &'a HostPort> {
    let symbols = &view.snapshot.catalogue.symbols;
    let taken = |wanted: &HostPort| candidate.fill.ports.iter().any(|(port, _)| clash(symbols, port, wanted));
    view.pod.spec.ports.iter().filter(move |wanted| taken(wanted))
}

pub fn filter(view: &View, candidate: &Candidate) -> Verdict {
    if taken(view, candidate).next().is_some() {
        return Err(Refusal::for_now(NAME, "node(s) didn't have free ports for the requested pod ports"));
    }
    Ok(())
}

pub fn hint(question: &Question) -> bool {
    let symbols = &question.snapshot.catalogue.symbols;
    let wanted = &question.pod.template.spec.ports;
    match question.event {
        Event::NodeAdded { .. } => true,
        Event::PodRemoved(pod) => {
            pod.template.spec.ports.iter().any(|port| wanted.iter().any(|w| clash(symbols, port, w)))
        }
        _ => false,
    }
}
