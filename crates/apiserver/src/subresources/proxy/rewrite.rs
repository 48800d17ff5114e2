//! Links in what a proxied server answers: one that leads to the root of the server must lead below
//! the proxy's path. Pure.

/// Which links are the proxied server's own, and where they lead.
#[derive(Clone, Debug)]
pub struct Links {
    /// The path up to and including `/proxy`.
    pub prefix: String,
    /// `host:port` of the proxied server, and the host the client asked for.
    pub backend: String,
    pub requested: String,
}

/// The attributes that hold links, by element.
const LINKS: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// Elements whose content is text, whatever it looks like.
const RAW: [&str; 4] = ["script", "style", "textarea", "title"];

/// A page being written, up to a bound: links grow by the prefix, which is as long as the client
/// likes, and a page may be made of little else.
struct Page {
    text: String,
    most: usize,
    is_full: bool,
}

impl Page {
    fn push_str(&mut self, text: &str) {
        self.is_full |= self.text.len() + text.len() > self.most;
        if !self.is_full {
            self.text.push_str(text);
        }
    }
}

impl Links {
    /// One link as the client must follow it.
    pub fn url(&self, link: &str) -> String {
        let (origin, host, path) = split(link);
        let foreign = !host.is_empty() && host != self.backend && host != self.requested;
        if foreign || !path.starts_with('/') {
            return link.to_owned();
        }
        let origin = if host == self.requested { origin } else { "" };
        let (path, rest) = path.split_at(path.find(['?', '#']).unwrap_or(path.len()));
        if path.starts_with(&self.prefix) {
            return format!("{origin}{path}{rest}");
        }
        format!("{origin}{}{rest}", joined(&self.prefix, path))
    }

    /// A page with all its links rewritten; everything else stays byte for byte. `None` where it would
    /// be longer than `most`.
    pub fn html(&self, page: &str, most: usize) -> Option<String> {
        let text = String::with_capacity(page.len() + page.len() / 8);
        let mut out = Page { text, most, is_full: false };
        let mut rest = page;
        while let Some(at) = rest.find('<').filter(|_| !out.is_full) {
            out.push_str(&rest[..at]);
            rest = &rest[at..];
            rest = if let Some(comment) = rest.strip_prefix("<!--") {
                let end = comment.find("-->").map_or(rest.len(), |end| end + "<!---->".len());
                copy(&mut out, rest, end)
            } else if rest[1..].starts_with(|c: char| c.is_ascii_alphabetic()) {
                self.element(&mut out, rest)
            } else {
                copy(&mut out, rest, 1)
            };
        }
        out.push_str(rest);
        (!out.is_full).then_some(out.text)
    }

    /// Writes a start tag (and the text of an element that holds nothing else); gives what follows.
    fn element<'a>(&self, out: &mut Page, text: &'a str) -> &'a str {
        let end = tag_end(text);
        let (tag, rest) = text.split_at(end);
        let name_end = tag[1..].find(|c: char| c.is_ascii_whitespace() || matches!(c, '/' | '>'));
        let name_end = name_end.map_or(tag.len(), |at| at + 1);
        let name = tag[1..name_end].to_ascii_lowercase();
        match LINKS.iter().find(|(element, _)| *element == name) {
            Some((_, attributes)) => {
                out.push_str(&tag[..name_end]);
                self.attributes(out, &tag[name_end..], attributes);
            }
            None => out.push_str(tag),
        }
        if !RAW.contains(&name.as_str()) || tag.ends_with("/>") {
            return rest;
        }
        copy(out, rest, closing(rest, &name))
    }

    fn attributes(&self, out: &mut Page, mut text: &str, links: &[&str]) {
        while let Some(at) = text.find('=').filter(|_| !out.is_full) {
            let name_start = text[..at].trim_end().rfind(|c: char| c.is_ascii_whitespace() || c == '/');
            let name = text[name_start.map_or(0, |start| start + 1)..at].trim().to_ascii_lowercase();
            let space = text[at + 1..].len() - text[at + 1..].trim_start().len();
            let start = at + 1 + space;
            let (quote, from) = match text[start..].chars().next() {
                Some(quote @ ('"' | '\'')) => (Some(quote), start + 1),
                _ => (None, start),
            };
            let length = match quote {
                Some(quote) => text[from..].find(quote),
                None => text[from..].find(|c: char| c.is_ascii_whitespace() || c == '>'),
            };
            let to = length.map_or(text.len(), |length| from + length);
            out.push_str(&text[..from]);
            if links.contains(&name.as_str()) {
                out.push_str(&self.url(&text[from..to]));
            } else {
                out.push_str(&text[from..to]);
            }
            text = &text[to..];
            if let Some(after) = quote.and_then(|quote| text.strip_prefix(quote)) {
                out.push_str(&text[..text.len() - after.len()]);
                text = after;
            }
        }
        out.push_str(text);
    }
}

fn copy<'a>(out: &mut Page, text: &'a str, end: usize) -> &'a str {
    let (head, rest) = text.split_at(end);
    out.push_str(head);
    rest
}

/// Where a tag ends: at the first `>` outside quotes.
fn tag_end(tag: &str) -> usize {
    let mut quote = None;
    for (at, c) in tag.char_indices() {
        match (quote, c) {
            (None, '>') => return at + 1,
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            _ => {}
        }
    }
    tag.len()
}

/// Where `</name` begins.
fn closing(text: &str, name: &str) -> usize {
    let found = text.match_indices("</").find(|(at, _)| {
        text.get(at + 2..at + 2 + name.len()).is_some_and(|word| word.eq_ignore_ascii_case(name))
    });
    found.map_or(text.len(), |(at, _)| at)
}

/// `scheme://host` as it stands, the host alone, and everything from the path on.
fn split(link: &str) -> (&str, &str, &str) {
    let scheme = link.find("://").filter(|at| link[..*at].bytes().all(|b| b.is_ascii_alphanumeric()));
    let host_at = match scheme {
        Some(at) => at + 3,
        None if link.starts_with("//") => 2,
        None => return ("", "", link),
    };
    let end = link[host_at..].find(['/', '?', '#']).map_or(link.len(), |end| host_at + end);
    (&link[..end], &link[host_at..end], &link[end..])
}

/// The path below the prefix, without empty parts and steps up.
fn joined(prefix: &str, path: &str) -> String {
    let mut parts: Vec<&str> = prefix.split('/').filter(|p| !p.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let slash = if path.ends_with('/') { "/" } else { "" };
    format!("/{}{slash}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links() -> Links {
        Links { prefix: "/p/proxy".into(), backend: "10.0.0.1:80".into(), requested: "api:6443".into() }
    }

    #[test]
    fn own_links_lead_below_the_proxy() {
        for (link, wanted) in [
            ("/", "/p/proxy/"),
            ("/a/b/", "/p/proxy/a/b/"),
            ("/a//b/../c?x=/y#z", "/p/proxy/a/c?x=/y#z"),
            ("/p/proxy/a", "/p/proxy/a"),
            ("http://10.0.0.1:80/a", "/p/proxy/a"),
            ("//10.0.0.1:80/a", "/p/proxy/a"),
            ("https://api:6443/a", "https://api:6443/p/proxy/a"),
            ("http://elsewhere/a", "http://elsewhere/a"),
            ("http://10.0.0.1:80", "http://10.0.0.1:80"),
            ("a/b", "a/b"),
            ("#top", "#top"),
            ("mailto:a@b", "mailto:a@b"),
            ("", ""),
        ] {
            assert_eq!(links().url(link), wanted, "{link}");
        }
    }

    #[test]
    fn pages_keep_everything_but_their_links() {
        for (page, wanted) in [
            ("<a href=\"/x\">/x</a>", "<a href=\"/p/proxy/x\">/x</a>"),
            ("<A HREF='/x' id=/y>", "<A HREF='/p/proxy/x' id=/y>"),
            ("<img src=/i.png><p href=\"/x\">", "<img src=/p/proxy/i.png><p href=\"/x\">"),
            (
                "<!-- <a href=\"/x\"> --><a href = \"/x\">",
                "<!-- <a href=\"/x\"> --><a href = \"/p/proxy/x\">",
            ),
            (
                "<script src=\"/s\">if (a<b) '<a href=\"/x\">'</script>",
                "<script src=\"/p/proxy/s\">if (a<b) '<a href=\"/x\">'</script>",
            ),
            (
                "<a title=\"a>b\" href=\"/x\"/>1 < 2 &amp; <",
                "<a title=\"a>b\" href=\"/p/proxy/x\"/>1 < 2 &amp; <",
            ),
            ("<form action=\"http://10.0.0.1:80/f\"><a href=\"ä", "<form action=\"/p/proxy/f\"><a href=\"ä"),
        ] {
            assert_eq!(links().html(page, 1 << 10).as_deref(), Some(wanted));
            assert_eq!(links().html(page, wanted.len()).as_deref(), Some(wanted));
            assert_eq!(links().html(page, wanted.len() - 1), None);
        }
    }

    #[test]
    fn pages_of_nothing_but_links_do_not_grow_without_end() {
        let links = Links { prefix: format!("/{}/proxy", "x".repeat(60 << 10)), ..links() };
        let many = 1 << 20;
        for page in ["<a href=/>".repeat(many), format!("<a {}>", "href=/ ".repeat(many))] {
            assert_eq!(links.html(&page, 2 * page.len()), None);
        }
    }
}
