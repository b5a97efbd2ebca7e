//! What the cache keeps, and for how long.

use super::{Cache, ENTRY_BYTES, Proof, Trust, Verdict};
use crate::classify::classify;
use crate::time::Duration;
use std::sync::Arc;

#[test]
fn texts_of_one_key_are_parsed_once() {
    let mut cache = Cache::new(1, 1 << 20);
    let first = cache.classify(b"SELECT a FROM t WHERE b = 1");
    let second = cache.classify(b"select a  from t where b = 22 /* again */");
    assert!(Arc::ptr_eq(&first, &second));
    assert_eq!(*first, classify(b"SELECT a FROM t WHERE b = 1"));
    // A broken text of the same key would stand in the way of a good one.
    let broken = cache.classify(b"SELECT a FROM t WHERE c = E'\\u12'");
    let good = cache.classify(b"SELECT a FROM t WHERE c = E'\\u0012'");
    assert_ne!(broken, good);
}

#[test]
fn a_verdict_holds_for_its_edition_and_what_was_learnt_for_ever() {
    let mut cache = Cache::new(3, 1 << 20);
    let mut asked = 0;
    let mut verdict = |cache: &mut Cache, edition, reads| {
        cache.verdict(b"SELECT f(1)", None, edition, |_| {
            asked += 1;
            reads
        })
    };
    let primary = Verdict::Primary { writes: true, defines: false };
    assert_eq!(verdict(&mut cache, 1, Proof::Proven), Verdict::Read(Trust::Proven));
    let read = Verdict::Read(Trust::Proven);
    assert_eq!(verdict(&mut cache, 1, Proof::None), read, "it is not asked again");
    assert_eq!(verdict(&mut cache, 2, Proof::None), Verdict::Unproven);
    assert_eq!(verdict(&mut cache, 3, Proof::Proven), read);
    cache.learn(b"select f(22)");
    assert_eq!(verdict(&mut cache, 4, Proof::Proven), primary);
    assert_eq!(asked, 3);
}

#[test]
fn what_is_believed_is_tried_by_a_standby_until_names_mean_something_else() {
    let mut cache = Cache::new(3, 1 << 20);
    let verdict = |cache: &mut Cache, text: &str, edition| {
        let verdict = cache.verdict(text.as_bytes(), None, edition, |_| Proof::Believed);
        (verdict, cache.take_last().expect("it is kept"))
    };
    let (believed, tried) = (Verdict::Read(Trust::Believed), Verdict::Read(Trust::Tried));
    let (first, mark) = verdict(&mut cache, "SELECT g(1)", 1);
    assert_eq!(first, believed);
    cache.took(mark, Duration::from_millis(1), false);
    assert_eq!(verdict(&mut cache, "SELECT g(2)", 1).0, believed, "the primary refuses none");
    let mut failed = mark;
    failed.doubt();
    cache.took(failed, Duration::from_millis(1), true);
    assert_eq!(verdict(&mut cache, "SELECT g(2)", 1).0, believed, "it failed before it wrote");
    cache.took(mark, Duration::from_millis(1), true);
    assert_eq!(verdict(&mut cache, "SELECT g(3)", 1).0, tried);
    assert_eq!(verdict(&mut cache, "SELECT h(3)", 1).0, believed);
    let (second, mark) = verdict(&mut cache, "SELECT g(4)", 2);
    assert_eq!(second, believed, "it may be another function");
    assert_eq!(verdict(&mut cache, "SELECT g(4)", 3).0, believed);
    cache.took(mark, Duration::from_millis(1), true);
    assert_eq!(verdict(&mut cache, "SELECT g(5)", 3).0, believed, "it was the one before");
    cache.verdict(b"SELECT 1", None, 1, |_| Proof::Proven);
    let proven = cache.take_last().expect("it is kept");
    cache.took(proven, Duration::from_millis(1), true);
    let read = cache.verdict(b"SELECT 1", None, 1, |_| Proof::None);
    assert_eq!(read, Verdict::Read(Trust::Proven));
}

#[test]
fn what_became_of_a_text_is_counted_while_it_is_kept() {
    let mut cache = Cache::new(3, 2 * (ENTRY_BYTES + 64));
    let database: Arc<str> = "app".into();
    let mark = |cache: &mut Cache, text: &str| {
        cache.verdict(text.as_bytes(), None, 1, |_| Proof::Proven);
        cache.take_last().expect("it is kept")
    };
    let one = mark(&mut cache, "SELECT a FROM t WHERE b = 1");
    assert_eq!(cache.take_last(), None, "once");
    let two = mark(&mut cache, "SELECT a FROM t WHERE b = 2");
    assert_eq!(one, two);
    cache.count(one, &database, true);
    cache.count(two, &database, false);
    cache.took(one, Duration::from_millis(3), true);
    cache.took(one, Duration::from_millis(4), false);
    let routes = cache.routes(10);
    let route = &routes[0];
    assert_eq!((routes.len(), &*route.statement), (1, "select a from t where b = 0"));
    let counts = (route.seen, route.moved, route.time.as_millis(), &*route.database);
    assert_eq!(counts, (2, 1, 7, "app"));
    for number in 0..10 {
        let other = mark(&mut cache, &format!("SELECT a FROM t{number}"));
        cache.count(other, &database, true);
    }
    // Another stands in its place now.
    cache.count(one, &database, true);
    assert!(cache.routes(10).iter().all(|route| route.seen == 1), "{:?}", cache.routes(10));
    assert_eq!(cache.routes(1).len(), 1);
}

#[test]
fn it_stays_within_its_bytes_and_keeps_what_is_asked_for() {
    let mut cache = Cache::new(1, 64 * ENTRY_BYTES);
    let kept = b"SELECT * FROM kept".as_slice();
    let first = cache.classify(kept);
    for number in 0..1_000 {
        let text = format!("SELECT * FROM t{number}");
        assert_eq!(*cache.classify(text.as_bytes()), classify(text.as_bytes()));
        assert!(Arc::ptr_eq(&first, &cache.classify(kept)));
        assert!(cache.bytes() <= 64 * ENTRY_BYTES);
    }
    assert!(cache.entries.len() <= 64 && cache.table.len() > 16);
}
