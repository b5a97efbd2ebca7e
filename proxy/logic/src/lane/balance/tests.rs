//! What the primary gets of the reads that it shares with a standby.

use crate::id::ConnId;
use crate::lane::trial::standby::BEGUN;
use crate::lane::trial::{ANSWERED, Trial, error, query};
use crate::mail::{Entrance, Event};
use crate::time::{Duration, Instant};
use crate::topology::verdict::Health;
use crate::topology::{Lsn, Role, Standing};
use pgring_wire::client::write as ask;

const READ: &str = "SELECT 1";

/// A client says something that one of both nodes gets. Whether it is the primary.
fn is_at_home(trial: &mut Trial, standby: ConnId, text: &str) -> bool {
    is_home_for(trial.client, trial, standby, text)
}

fn is_home_for(client: ConnId, trial: &mut Trial, standby: ConnId, text: &str) -> bool {
    let bytes = query(text);
    assert_eq!(trial.receives(client, &bytes), bytes.len(), "{text} goes at once");
    let at = [trial.server, standby].map(|server| trial.forwards_to(server));
    assert_eq!(at[0] + at[1], bytes.len(), "{text} goes to one of them");
    at[0] > 0
}

/// The same, and it is answered.
fn runs_at_home(trial: &mut Trial, standby: ConnId, text: &str) -> bool {
    let home = is_at_home(trial, standby, text);
    trial.receives(if home { trial.server } else { standby }, ANSWERED);
    home
}

/// How many of a hundred the primary gets.
fn part(trial: &mut Trial, standby: ConnId, text: &str) -> u32 {
    (0..100).map(|_| u32::from(runs_at_home(trial, standby, text))).sum()
}

fn standing(role: Role) -> Standing {
    Standing { role, weight: 1, ..Standing::default() }
}

#[test]
fn the_primary_gets_what_its_weight_says() {
    let (mut trial, standby) = Trial::shared("");
    let equal = part(&mut trial, standby, READ);
    assert!((35..=65).contains(&equal), "{equal}");
    trial.weighs([1, 9]);
    let little = part(&mut trial, standby, READ);
    assert!((2..=20).contains(&little), "{little}");
    trial.weighs([0, 1]);
    assert_eq!(part(&mut trial, standby, READ), 0);
    trial.weighs([1, 0]);
    assert_eq!(part(&mut trial, standby, READ), 100);
}

#[test]
fn a_transaction_that_only_reads_may_be_the_primarys() {
    let (mut trial, standby) = Trial::shared("");
    let mut home = 0;
    for _ in 0..100 {
        let there = is_at_home(&mut trial, standby, "BEGIN READ ONLY");
        let server = if there { trial.server } else { standby };
        trial.receives(server, BEGUN);
        for text in [READ, "COMMIT"] {
            assert_eq!(is_at_home(&mut trial, standby, text), there, "it stays");
            let answer = if text == READ { b"C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05T" } else { ANSWERED };
            trial.receives(server, answer);
        }
        home += u32::from(there);
    }
    assert!((35..=65).contains(&home), "{home}");
}

#[test]
fn where_reads_are_the_replicas_the_primary_gets_none() {
    let (mut trial, standby) = Trial::routed("");
    assert_eq!(part(&mut trial, standby, READ), 0);
}

#[test]
fn who_asks_for_a_replica_gets_one() {
    let (mut trial, standby) = Trial::shared("");
    assert_eq!(part(&mut trial, standby, "/* pgring: replica */ SELECT 1"), 0);
    let equal = part(&mut trial, standby, READ);
    assert!((35..=65).contains(&equal), "what was asked for once is not asked for always: {equal}");
    let rule = "routing.rules = [{ user = \"app\", route = \"replica\" }]";
    let (mut trial, standby) = Trial::shared(rule);
    assert_eq!(part(&mut trial, standby, READ), 0);
}

/// A transaction that may write later has its own key for where its reads go.
#[test]
fn what_a_transaction_reads_first_is_a_standbys() {
    let (mut trial, standby) = Trial::shared("");
    for _ in 0..100 {
        trial.begin();
        let read = query(READ);
        assert_eq!(trial.client_says(&read), read.len());
        assert_eq!(trial.forwards_to(standby), read.len());
        trial.receives(standby, &[BEGUN, b"C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05T"].concat());
        assert_eq!(trial.client_says(&query("COMMIT")), query("COMMIT").len());
        trial.receives(standby, b"C\0\0\0\x0bCOMMIT\0Z\0\0\0\x05I");
    }
}

#[test]
fn clients_for_reads_only_are_never_on_the_primary() {
    let (mut trial, standby) = Trial::shared("");
    let client = trial.enter_readonly(standby);
    for _ in 0..100 {
        assert!(!is_home_for(client, &mut trial, standby, READ));
        trial.receives(standby, ANSWERED);
    }
}

/// The primary has what the session wrote: nothing is waited for.
#[test]
fn what_no_standby_shows_yet_the_primary_does() {
    let (mut trial, standby) = Trial::shared("routing.read_wait_max = \"1s\"");
    trial.wait(Duration::from_millis(1));
    assert!(runs_at_home(&mut trial, standby, "DELETE FROM t"));
    assert_eq!(part(&mut trial, standby, READ), 100);
    trial.wait(Duration::from_millis(2));
    let asked = Instant::START + Duration::from_millis(2);
    let (end, lsn) = (Lsn(100), Lsn(100));
    let primary = Standing { lsn, end, asked, ..standing(Role::Primary) };
    trial.finds([Some(primary), Some(Standing { lsn, ..standing(Role::Standby) })]);
    let shared = part(&mut trial, standby, READ);
    assert!((35..=65).contains(&shared), "both show it: {shared}");
}

#[test]
fn a_primary_that_is_not_well_gets_no_reads() {
    let (mut trial, standby) = Trial::shared("");
    let well = standing(Role::Standby);
    let health = Health { out: true, ..Health::default() };
    let silent = Standing { error: Some("no answer".to_owned()), ..standing(Role::Primary) };
    for primary in [
        Some(Standing { health, ..standing(Role::Primary) }),
        Some(silent),
        Some(standing(Role::Unknown)),
        None,
    ] {
        let said = format!("{primary:?}");
        trial.finds([primary, Some(well.clone())]);
        assert_eq!(part(&mut trial, standby, READ), 0, "{said}");
    }
    trial.finds([Some(standing(Role::Primary)), None]);
    assert_eq!(part(&mut trial, standby, READ), 100, "nor does a standby that is not there");
}

/// What writes may wait for a lock, or for a disk: that says nothing of how long reads take.
#[test]
fn long_writes_do_not_make_it_slow() {
    let (mut trial, standby) = Trial::shared("");
    for _ in 0..50 {
        assert!(is_at_home(&mut trial, standby, "DELETE FROM t"));
        trial.wait(Duration::from_millis(50));
        trial.receives(trial.server, ANSWERED);
    }
    let asked = Instant::START + Duration::from_secs(1_000);
    let (primary, standby_too) = (standing(Role::Primary), standing(Role::Standby));
    trial.finds([Some(Standing { asked, ..primary }), Some(standby_too)]);
    let equal = part(&mut trial, standby, READ);
    assert!((35..=65).contains(&equal), "{equal}");
}

/// A read that was the primary's waits for one of its servers when that goes out of use.
#[test]
fn a_read_does_not_wait_for_a_primary_that_is_gone() {
    let (mut trial, standby) = Trial::shared("pool.size = 1");
    let other = trial.enter(Entrance::default());
    let begin = query("BEGIN ISOLATION LEVEL SERIALIZABLE");
    assert_eq!(trial.receives(other, &begin), begin.len(), "it has the primary's only server");
    trial.receives(trial.server, BEGUN);
    trial.weighs([1, 0]);
    let read = query(READ);
    assert_eq!(trial.client_says(&read), 0, "it waits");
    trial.finds([Some(standing(Role::Primary)), Some(standing(Role::Standby))]);
    assert!(!trial.is_resumed(), "the primary is well");
    trial.finds([Some(standing(Role::Unknown)), Some(standing(Role::Standby))]);
    assert!(trial.is_resumed());
    assert_eq!(trial.client_says(&read), read.len());
    assert_eq!(trial.forwards_to(standby), read.len());
    // There it is a read as any other: it outlives its standby.
    trial.happens(Event::Ended { conn: standby });
    assert!(!trial.closes(trial.client));
    trial.happens(Event::Ended { conn: trial.server });
    trial.happens(Event::Closed { conn: trial.server });
    let next = trial.connecting().expect("it waits for another server of the primary");
    trial.happens(Event::Connected { conn: next });
    trial.server_greets(next, "off");
    assert!(trial.said_to(next).ends_with(&read));
}

/// It stays where it waits, and goes when there is room.
#[test]
fn a_read_does_not_go_to_where_nobody_more_may_wait() {
    let (mut trial, standby) = Trial::shared("pool.size = 1\npool.waiting_max = 1");
    let [writer, reader, waiter] = [(); 3].map(|()| trial.enter(Entrance::default()));
    let begin = query("BEGIN ISOLATION LEVEL SERIALIZABLE");
    assert_eq!(trial.receives(writer, &begin), begin.len(), "it has the primary's only server");
    trial.receives(trial.server, BEGUN);
    let asks = query("/* pgring: replica */ SELECT 1");
    assert_eq!(trial.receives(reader, &asks), asks.len(), "it has the standby's");
    assert_eq!(trial.forwards_to(standby), asks.len());
    assert_eq!(trial.receives(waiter, &asks), 0, "it waits for that");
    trial.weighs([1, 0]);
    assert_eq!(trial.client_says(&query(READ)), 0, "it waits for the primary's");
    let gone = [Some(standing(Role::Unknown)), Some(standing(Role::Standby))];
    trial.finds(gone.clone());
    trial.receives(standby, ANSWERED);
    assert_eq!(trial.receives(waiter, &asks), asks.len());
    trial.receives(standby, ANSWERED);
    assert!(!trial.is_resumed(), "nobody has moved it");
    trial.finds(gone);
    assert!(trial.is_resumed());
    assert!(!is_at_home(&mut trial, standby, READ));
}

/// It is on its way to the primary with all that it has to say: nobody is to take that from it.
#[test]
fn a_read_that_its_standby_did_not_answer_stays_with_the_primary() {
    let (mut trial, standby) = Trial::shared("pool.size = 1");
    let other = trial.enter(Entrance::default());
    let begin = query("BEGIN ISOLATION LEVEL SERIALIZABLE");
    assert_eq!(trial.receives(other, &begin), begin.len(), "it has the primary's only server");
    trial.receives(trial.server, BEGUN);
    let away = [Some(standing(Role::Unknown)), Some(standing(Role::Standby))];
    trial.finds(away.clone());
    let read = query(READ);
    assert!(!is_at_home(&mut trial, standby, READ));
    trial.happens(Event::Ended { conn: standby });
    trial.happens(Event::Closed { conn: standby });
    for _ in 0..3 {
        trial.finds(away.clone());
        assert!(!trial.connects() && !trial.is_resumed());
    }
    assert_eq!(trial.receives(other, &query("COMMIT")), query("COMMIT").len());
    trial.receives(trial.server, ANSWERED);
    assert_eq!(trial.said_to(trial.server), read, "it is said again");
}

/// A standby refuses whoever lies about that; the primary would write.
#[test]
fn what_is_only_believed_to_read_is_not_shared() {
    let (mut trial, standby) = Trial::shared("");
    assert_eq!(part(&mut trial, standby, "SELECT believed()"), 0);
    let equal = part(&mut trial, standby, READ);
    assert!((35..=65).contains(&equal), "{equal}");
}

const BELIEVED: &str = "SELECT believed()";

const READ_IN_TRANSACTION: &[u8] = b"C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05T";

/// The monitor has asked the primary anew, a second after the start, and the standby shows all.
fn follows(trial: &mut Trial) {
    let asked = Instant::START + Duration::from_secs(1);
    let primary = Standing { asked, ..standing(Role::Primary) };
    trial.finds([Some(primary), Some(standing(Role::Standby))]);
}

/// The same for a session that reads in a transaction, and for one whose standby cannot be had.
#[test]
fn what_no_standby_has_run_may_have_written_where_the_primary_runs_it() {
    let (mut trial, standby) = Trial::routed("");
    trial.wait(Duration::from_millis(1));
    trial.stands(Role::Unknown);
    assert!(runs_at_home(&mut trial, standby, READ));
    trial.stands(Role::Standby);
    assert!(!runs_at_home(&mut trial, standby, READ), "that has written nothing");
    trial.stands(Role::Unknown);
    assert!(runs_at_home(&mut trial, standby, BELIEVED));
    trial.stands(Role::Standby);
    assert!(runs_at_home(&mut trial, standby, READ), "no standby is known to show it");
    follows(&mut trial);
    assert!(!runs_at_home(&mut trial, standby, BELIEVED), "it is refused there if it writes");
    trial.stands(Role::Unknown);
    assert!(runs_at_home(&mut trial, standby, BELIEVED));
    follows(&mut trial);
    assert!(!runs_at_home(&mut trial, standby, READ), "it was not");
}

#[test]
fn what_is_read_behind_a_write_in_its_transaction_may_write_too() {
    let (mut trial, standby) = Trial::routed("");
    trial.wait(Duration::from_millis(1));
    for (text, home) in [(READ, false), (BELIEVED, true)] {
        let begin = query("BEGIN ISOLATION LEVEL SERIALIZABLE");
        assert_eq!(trial.client_says(&begin), begin.len());
        trial.receives(trial.server, BEGUN);
        let read = query(text);
        assert_eq!(trial.client_says(&read), read.len());
        trial.receives(trial.server, READ_IN_TRANSACTION);
        let commit = query("COMMIT");
        assert_eq!(trial.client_says(&commit), commit.len());
        trial.receives(trial.server, ANSWERED);
        assert_eq!(runs_at_home(&mut trial, standby, READ), home, "{text}");
    }
}

/// The primary runs it, and it counts as a write there.
fn may_have_written(mut trial: Trial, standby: ConnId) {
    trial.wait(Duration::from_millis(1));
    trial.stands(Role::Unknown);
    assert!(runs_at_home(&mut trial, standby, BELIEVED));
    trial.stands(Role::Standby);
    assert!(runs_at_home(&mut trial, standby, READ), "no standby is known to show it");
}

/// It may have failed before it came to write.
#[test]
fn what_has_failed_on_a_standby_has_not_been_tried() {
    let (mut trial, standby) = Trial::routed("");
    assert!(!is_at_home(&mut trial, standby, BELIEVED));
    let failed = [&error("22012"), &b"Z\0\0\0\x05I"[..]].concat();
    trial.receives(standby, &failed);
    may_have_written(trial, standby);
}

/// A segment looks at more than it runs.
#[test]
fn what_was_only_parsed_on_a_standby_has_not_been_tried() {
    let (mut trial, standby) = Trial::routed("");
    let mut segment = Vec::new();
    ask::parse(&mut segment, b"one", b"SELECT 1\0\0\0").expect("it is short");
    ask::parse(&mut segment, b"two", format!("{BELIEVED}\0\0\0").as_bytes()).expect("short");
    ask::bind(&mut segment, b"", b"one");
    ask::execute(&mut segment, b"");
    ask::sync(&mut segment);
    assert_eq!(trial.client_says(&segment), segment.len());
    assert!(trial.forwards_to(standby) > 0);
    trial.receives(standby, b"1\0\0\0\x041\0\0\0\x042\0\0\0\x04");
    trial.receives(standby, ANSWERED);
    assert_eq!(trial.lane.idle_servers(), 2);
    may_have_written(trial, standby);
}

#[test]
fn what_was_only_described_is_not_what_its_transaction_ran() {
    let (mut trial, standby) = Trial::routed("");
    trial.begin();
    let mut segment = Vec::new();
    ask::parse(&mut segment, b"", format!("{BELIEVED}\0\0\0").as_bytes()).expect("short");
    ask::describe(&mut segment, b'S', b"");
    ask::sync(&mut segment);
    assert_eq!(trial.client_says(&segment), segment.len());
    assert!(trial.forwards_to(standby) > 0);
    trial.receives(standby, BEGUN);
    trial.receives(standby, b"1\0\0\0\x04t\0\0\0\x06\0\0n\0\0\0\x04Z\0\0\0\x05T");
    let commit = query("COMMIT");
    assert_eq!(trial.client_says(&commit), commit.len());
    assert_eq!(trial.forwards_to(standby), commit.len());
    trial.receives(standby, ANSWERED);
    assert_eq!(trial.lane.idle_servers(), 2);
    may_have_written(trial, standby);
}

/// Its standby would have told who only says that it reads.
#[test]
fn what_waited_for_a_lost_standby_may_have_written() {
    let (mut trial, standby) = Trial::routed("pool.size = 1");
    trial.wait(Duration::from_millis(1));
    let other = trial.enter(Entrance::default());
    assert!(!is_home_for(other, &mut trial, standby, READ), "it has the standby's only server");
    assert_eq!(trial.client_says(&query(BELIEVED)), 0, "it waits");
    trial.stands(Role::Unknown);
    assert!(trial.is_resumed(), "the primary has a server for it");
    assert!(runs_at_home(&mut trial, standby, BELIEVED));
    trial.stands(Role::Standby);
    trial.receives(standby, ANSWERED);
    assert!(runs_at_home(&mut trial, standby, READ), "no standby is known to show it");
}

/// Whoever has seen no standby, and so is the primary's, waits for that as ever.
#[test]
fn a_read_that_fell_back_is_not_moved_to_and_fro() {
    let (mut trial, standby) = Trial::shared("pool.size = 1\npool.query_wait_timeout = \"1s\"");
    let (writer, reader) = (trial.enter(Entrance::default()), trial.enter(Entrance::default()));
    let begin = query("BEGIN ISOLATION LEVEL SERIALIZABLE");
    assert_eq!(trial.receives(writer, &begin), begin.len());
    trial.receives(trial.server, BEGUN);
    let out = [Some(standing(Role::Unknown)), Some(standing(Role::Standby))];
    trial.finds(out.clone());
    let long = query(READ);
    assert_eq!(trial.receives(reader, &long), long.len(), "it has the standby's only server");
    assert_eq!(trial.forwards_to(standby), long.len());
    assert_eq!(trial.client_says(&query(READ)), 0, "it waits for the same");
    trial.wait(Duration::from_millis(1_100));
    for _ in 0..9 {
        trial.finds(out.clone());
        assert!(!trial.is_resumed(), "now for the primary");
        trial.wait(Duration::from_millis(100));
    }
    trial.wait(Duration::from_millis(200));
    assert!(trial.is_resumed(), "it is refused");
}

/// While neither can be had it waits, for as long as it may, and not longer for having been looked
/// at in between.
#[test]
fn a_read_waits_no_longer_for_being_looked_at() {
    let (mut trial, _) = Trial::shared("pool.size = 1\npool.query_wait_timeout = \"1s\"");
    let other = trial.enter(Entrance::default());
    let begin = query("BEGIN ISOLATION LEVEL SERIALIZABLE");
    assert_eq!(trial.receives(other, &begin), begin.len());
    trial.receives(trial.server, BEGUN);
    trial.weighs([1, 0]);
    assert_eq!(trial.client_says(&query(READ)), 0, "it waits");
    for _ in 0..9 {
        trial.wait(Duration::from_millis(100));
        trial.finds([Some(standing(Role::Unknown)), None]);
        assert!(!trial.is_resumed());
    }
    trial.wait(Duration::from_millis(200));
    assert!(trial.is_resumed(), "it is refused");
}

/// It waits for a server by then, whatever others have made known of what it said.
#[test]
fn a_read_that_has_waited_for_a_standby_is_in_one_queue_only() {
    let (mut trial, _) = Trial::routed("pool.size = 1\nrouting.read_wait_max = \"50ms\"");
    trial.wait(Duration::from_millis(1));
    let write = query("DELETE FROM t");
    assert_eq!(trial.client_says(&write), write.len());
    trial.receives(trial.server, ANSWERED);
    let other = trial.enter(Entrance::default());
    let begin = query("BEGIN ISOLATION LEVEL SERIALIZABLE");
    assert_eq!(trial.receives(other, &begin), begin.len(), "it has the primary's only server");
    trial.receives(trial.server, BEGUN);
    let mut parse = Vec::new();
    ask::parse(&mut parse, b"s", b"SELECT 1\0\0\0").expect("it is short");
    ask::sync(&mut parse);
    assert_eq!(trial.client_says(&parse), 0, "it waits for a standby that shows the write");
    trial.wait(Duration::from_millis(100));
    assert!(trial.is_resumed());
    assert_eq!(trial.client_says(&parse), 0, "now for the primary's");
    assert_eq!(trial.receives(other, &parse), parse.len());
    trial.receives(trial.server, b"1\0\0\0\x04Z\0\0\0\x05T");
    trial.stands(Role::Standby);
    assert_eq!(trial.client_says(&parse), 0, "it does so still");
    assert!(trial.said_to(trial.client).is_empty());
}
