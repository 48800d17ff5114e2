//! What an expression may cost. Whoever may write a claim writes one, and it is evaluated while decisions
//! wait: one that is deep would take the stack, and the process with it; one that counts to a billion
//! would stop the scheduler. Both are told from the expression itself before it is ever evaluated.

use std::sync::Arc;
use std::thread;

use cel::common::ast::{EntryExpr, Expr};
use cel::{Env, IdedExpr, Program};

/// Words and signs. Ten kilobytes, which the API takes, could hold thousands, each a level for the
/// parser; real selectors have a dozen for each thing they ask.
const MAX_TOKENS: usize = 1_000;
/// Levels of what is evaluated. One takes five kilobytes of the stack in a build without optimisation,
/// and threads have two megabytes.
const MAX_DEPTH: usize = 64;
/// Steps of one evaluation, about: a millisecond.
const MAX_COST: usize = 10_000;
/// Elements of what is not written out in the expression: a device has 32 attributes at most.
const ELEMENTS: usize = 100;
/// Steps that matching a regular expression stands for: it is compiled each time.
const REGEX_COST: usize = 1_000;
/// For parsing, which goes some frames deep for each token.
const STACK_BYTES: usize = 64 << 20;

/// The program of an expression that may be evaluated anywhere.
pub fn compile(environment: &Arc<Env>, source: &str) -> Result<Program, String> {
    let tokens = tokens(source);
    if tokens > MAX_TOKENS {
        return Err(format!("too complex: {tokens} words and signs, the limit is {MAX_TOKENS}"));
    }
    thread::scope(|scope| {
        let parsing = thread::Builder::new().name("cel".into()).stack_size(STACK_BYTES);
        let parsing = parsing.spawn_scoped(scope, || checked(environment, source));
        let parsing = parsing.map_err(|error| format!("cannot be parsed: {error}"))?;
        parsing.join().unwrap_or_else(|_| Err("cannot be parsed".to_owned()))
    })
}

fn checked(environment: &Arc<Env>, source: &str) -> Result<Program, String> {
    let program = environment.compile(source).map_err(|errors| errors.to_string())?;
    let (depth, cost) = (depth(program.expression()), cost(program.expression()));
    if depth > MAX_DEPTH {
        return Err(format!("too complex: {depth} levels, the limit is {MAX_DEPTH}"));
    }
    if cost > MAX_COST {
        return Err(format!("too complex: an estimated cost of {cost}, the limit is {MAX_COST}"));
    }
    Ok(program)
}

/// Runs of letters and digits, and everything else but white space by itself. What is quoted counts like
/// the rest: what is quoted is for the parser to say.
fn tokens(source: &str) -> usize {
    let mut count = 0;
    let mut in_word = false;
    for letter in source.chars() {
        let is_word = letter.is_alphanumeric() || letter == '_';
        let goes_on = is_word && in_word;
        count += usize::from(!(letter.is_whitespace() || goes_on));
        in_word = is_word;
    }
    count
}

fn of_entry(entry: &EntryExpr) -> Vec<&IdedExpr> {
    match entry {
        EntryExpr::StructField(field) => vec![&field.value],
        EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
    }
}

fn children(expression: &IdedExpr) -> Vec<&IdedExpr> {
    match &expression.expr {
        Expr::Call(call) => call.target.iter().map(|target| &**target).chain(&call.args).collect(),
        Expr::Comprehension(each) => {
            vec![&each.iter_range, &each.accu_init, &each.loop_cond, &each.loop_step, &each.result]
        }
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Map(map) => map.entries.iter().flat_map(|entry| of_entry(&entry.expr)).collect(),
        Expr::Struct(object) => object.entries.iter().flat_map(|entry| of_entry(&entry.expr)).collect(),
        Expr::Select(select) => vec![&select.operand],
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => Vec::new(),
    }
}

fn depth(expression: &IdedExpr) -> usize {
    1 + children(expression).into_iter().map(depth).max().unwrap_or(0)
}

/// Steps of an evaluation, at most and about.
fn cost(expression: &IdedExpr) -> usize {
    let sum = |parts: Vec<&IdedExpr>| parts.into_iter().map(cost).fold(1, usize::saturating_add);
    match &expression.expr {
        Expr::Comprehension(each) => {
            let body = cost(&each.loop_cond).saturating_add(cost(&each.loop_step));
            let rounds = elements(&each.iter_range).saturating_mul(body);
            sum(vec![&each.iter_range, &each.accu_init, &each.result]).saturating_add(rounds)
        }
        Expr::Call(call) if call.func_name == "matches" => {
            sum(children(expression)).saturating_add(REGEX_COST)
        }
        _ => sum(children(expression)),
    }
}

/// How many elements the value has, at most.
fn elements(expression: &IdedExpr) -> usize {
    match &expression.expr {
        Expr::List(list) => list.elements.len().max(1),
        Expr::Map(map) => map.entries.len().max(1),
        // A list made of another has as many; where lists are put together, all of both.
        Expr::Comprehension(each) => elements(&each.iter_range),
        Expr::Call(_) => children(expression).into_iter().map(elements).fold(ELEMENTS, usize::saturating_add),
        _ => ELEMENTS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(source: &str) -> Option<String> {
        compile(&Arc::new(Env::stdlib().with_optional_support(true)), source).err()
    }

    #[test]
    fn what_people_write_is_taken() {
        let clause = "device.attributes['gpu.com'].model == 'a100' && ";
        for source in [
            clause.repeat(40) + "true",
            "['a', 'b'].exists(m, device.attributes['gpu.com'].model == m)".to_owned(),
            "device.attributes['gpu.com'].all(k, k.startsWith('x') || k == 'y')".to_owned(),
            "device.attributes['gpu.com'].model.matches('^a[0-9]+$')".to_owned(),
            format!("{}true{}", "(".repeat(30), ")".repeat(30)),
        ] {
            assert_eq!(refusal(&source), None, "{source}");
        }
    }

    #[test]
    fn what_would_take_the_stack_or_the_time_is_refused() {
        let list = format!("[{}0]", "0, ".repeat(99));
        let cases = [
            ("1+".repeat(5000) + "1 == 1", "words and signs"),
            ("1+".repeat(400) + "1 == 1", "levels"),
            ("device".to_owned() + &".a".repeat(400), "levels"),
            ("device".to_owned() + &"[0]".repeat(300), "levels"),
            ("!".repeat(900) + "true", ""),
            ("-".repeat(900) + "1 == 1", ""),
            (format!("{}true{}", "(".repeat(400), ")".repeat(400)), ""),
            (format!("{}{}", "[".repeat(400), "]".repeat(400)), ""),
            ("true ? ".repeat(300) + "true" + &" : true".repeat(300), ""),
            (format!("{list}.all(a, {list}.all(b, {list}.all(c, a + b + c == 0)))"), "cost"),
            (
                "device.attributes.all(a, device.attributes.all(b, device.attributes.all(c, true)))"
                    .to_owned(),
                "cost",
            ),
            ("device.attributes.all(a, a.matches('x'))".to_owned(), "cost"),
        ];
        for (source, why) in cases {
            let head = &source[..source.len().min(40)];
            match refusal(&source) {
                Some(text) => assert!(text.contains(why), "{head}: {text}"),
                // Signs that take each other away are no levels.
                None => assert!(why.is_empty(), "{head}"),
            }
        }
    }
}
