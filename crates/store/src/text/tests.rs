use super::repeats::MIN_SHARED_BYTES;
use super::*;
use crate::suite::model::Random;

/// A set of fields that is long enough to be shared.
fn set(name: &str) -> String {
    format!("{{\"f:{}\":{{}}}}", name.repeat(MIN_SHARED_BYTES / name.len()))
}

fn owned(sets: &[String], rest: &str) -> String {
    let entries: Vec<_> = sets.iter().map(|set| format!("{{\"fieldsV1\":{set}}}")).collect();
    format!("{{\"managedFields\":[{}],{rest}}}", entries.join(","))
}

fn pieces(text: &Text) -> Vec<&Arc<Piece>> {
    text.0.inserts.iter().map(|insert| &insert.piece).collect()
}

#[test]
fn a_text_is_a_word_and_a_piece_two() {
    assert_eq!(size_of::<Text>(), 8);
    assert_eq!(size_of::<Insert>(), 16);
    assert_eq!(size_of::<Parts>(), 32);
    let plain = Text::from("{}");
    assert_eq!(plain.held_bytes(None), FRAME_BYTES + 2, "and nothing else without pieces");
}

#[test]
fn a_text_is_what_it_was_made_of() {
    for whole in ["", "x", "{}", &owned(&[set("a")], "\"k\":1"), &owned(&[set("a"), set("b")], "")] {
        let text = Text::from(whole);
        assert_eq!((text.len(), text.is_empty()), (whole.len(), whole.is_empty()));
        assert_eq!(text.chunks().collect::<Vec<_>>().concat(), whole.as_bytes());
        assert_eq!(&*text.contiguous(), whole.as_bytes());
        assert_eq!(text.to_bytes(), whole);
        assert_eq!(format!("{text:?}"), format!("{:?}", Bytes::from(whole.to_owned())));
        let (twin, other) = (Text::from(whole), Text::from(format!("{whole} ")));
        assert!(text == *whole && text == twin && text != other && !text.is_same(&twin));
        assert!(text.starts_with(whole.as_bytes()) && text.starts_with(b"") && !text.starts_with(b"y"));
        assert!(!text.starts_with(format!("{whole} ").as_bytes()));
    }
}

#[test]
fn pieces_may_stand_at_both_ends() {
    let (a, b) = (set("a"), set("b"));
    let inserts = [(0, &a), (0, &b), (3, &a), (6, &b)];
    let insert = |(at, piece): &(u32, &String)| Insert { at: *at, piece: INTERNER.piece(piece.as_bytes()) };
    let inserts: Box<[Insert]> = inserts.iter().map(insert).collect();
    let text = Text(Arc::new(Parts { own: (*b"xxxyyy").into(), inserts }));
    let whole = format!("{a}{b}xxx{a}yyy{b}");
    assert_eq!(text.chunks().count(), 6);
    assert_eq!((text.contiguous(), text.len()), (whole.as_bytes().into(), whole.len()));
    for from in 0..=whole.len() {
        for to in from..=whole.len() + 1 {
            let want = &whole.as_bytes()[from..to.min(whole.len())];
            assert_eq!(text.chunks_in(from..to).collect::<Vec<_>>().concat(), want);
        }
    }
}

#[test]
fn slices_outlive_their_text() {
    let whole = owned(&[set("a")], "\"k\":1");
    let slices: Vec<Bytes> = Text::from(&whole).slices_in(3..whole.len() - 3).collect();
    assert_eq!(slices.len(), 3);
    assert_eq!(slices.concat(), whole.as_bytes()[3..whole.len() - 3]);
    let one = Text::from("abc");
    assert_eq!(one.to_bytes().as_ptr(), one.chunks().next().unwrap().as_ptr(), "not copied");
}

#[test]
fn what_is_repeated_is_kept_once() {
    let interner = Interner::default();
    let text = |sets: &[String], rest: &str| Text::kept_in(&interner, &[owned(sets, rest).as_bytes()]);
    let first = text(&[set("a"), set("b")], "\"n\":1");
    let others: Vec<_> = (2..100).map(|n| text(&[set("a"), set("b")], &format!("\"n\":{n}"))).collect();
    for other in &others {
        assert!(pieces(&first).iter().zip(pieces(other)).all(|(a, b)| Arc::ptr_eq(a, b)));
    }
    assert_eq!(Arc::strong_count(pieces(&first)[0]), 99);
    assert_eq!(interner.known(), 2);
    drop((first, others));
    assert_eq!(interner.known(), 0);
}

#[test]
fn what_goes_with_a_text_is_what_its_successor_does_not_keep() {
    let text = |names: &[&str]| {
        Text::from(owned(&names.iter().map(|name| set(name)).collect::<Vec<_>>(), "\"k\":1"))
    };
    let (one, two) = (text(&["a"]), text(&["a", "b"]));
    let frame = |text: &Text| FRAME_BYTES + text.0.own.len() + size_of_val(&*text.0.inserts);
    let piece = set("a").len();
    assert_eq!(one.held_bytes(Some(&two)), frame(&one));
    assert_eq!(two.held_bytes(Some(&one)), frame(&two) + piece);
    assert_eq!(two.held_bytes(None), frame(&two) + 2 * piece);
}

#[test]
fn another_form_of_a_text_shares_its_pieces() {
    let text = Text::from(owned(&[set("a"), set("b"), set("c")], "\"k\":1"));
    for (form, shared) in [
        (format!("x{}y{}", set("a"), set("c")), 2),
        (set("b"), 1),
        (format!("{}{}", set("c"), set("a")), 1),
        ("x".to_owned(), 0),
        (String::new(), 0),
    ] {
        let other = Text::like(&text, form.as_bytes());
        assert_eq!(other, form);
        assert_eq!(other.0.inserts.len(), shared, "{form}");
        assert_eq!(other.held_bytes(Some(&text)), other.held_bytes(None) - shared * set("a").len());
    }
}

#[test]
fn a_large_text_with_little_to_share_stays_in_one_piece() {
    let little =
        owned(&[set("a")], &format!("\"k\":\"{}\"", "x".repeat(WORTH_SHARING * MIN_SHARED_BYTES * 2)));
    let text = Text::from(&little);
    assert!(text.0.inserts.is_empty() && text == little);
}

#[test]
fn parts_are_looked_at_by_themselves() {
    let whole = owned(&[set("a")], "\"k\":1");
    for cut in 0..=whole.len() {
        let (before, after) = whole.split_at(cut);
        let text = Text::new(&[before.as_bytes(), b"7", after.as_bytes()]);
        assert_eq!(text, format!("{before}7{after}"));
    }
}

/// Of whatever bytes, and of bytes that look like what is looked for.
#[test]
fn any_bytes_come_out_as_they_went_in() {
    const WORDS: [&[u8]; 12] = [
        br#""fieldsV1":{"#,
        br#""managedFields":["#,
        br#""k:{\"ip\":\""#,
        br#""k:{\"uid\":\""#,
        br#"\"}":{"#,
        b"{",
        b"}",
        b"\"",
        b"\\",
        b"\xff\x00",
        b"k8s:enc:",
        &[b'x'; MIN_SHARED_BYTES],
    ];
    let mut shared = 0;
    for seed in 0..20_000 {
        let mut random = Random(seed);
        let words = random.below(40);
        let mut bytes = Vec::new();
        for _ in 0..words {
            // Below the number of words.
            bytes.extend_from_slice(WORDS[random.below(WORDS.len() as u64) as usize]);
        }
        let text = Text::from(&bytes);
        assert!(text == bytes && text.len() == bytes.len(), "seed {seed}");
        assert!(pieces(&text).iter().all(|piece| piece.bytes().len() >= MIN_SHARED_BYTES), "seed {seed}");
        shared += usize::from(!text.0.inserts.is_empty());
    }
    assert!(shared > 100, "{shared} of them had something to share");
}
