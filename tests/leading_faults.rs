//! Transactions on standbys that go wrong, and reads that take down whoever runs them: a client
//! hears what it would hear from one node, and no more happens than it knows of.

use pgring_tests::command::{at_most_minutes, until};
use pgring_tests::message::{Message, bind, execute, extended, parse, query, sync};
use pgring_tests::pgring::Settings;
use pgring_tests::ports::Port;
use pgring_tests::routed::{SOON, Scene, say, scene, told};
use pgring_tests::wire::Wire;

fn stage(change: impl FnOnce(Settings) -> Settings) -> Scene {
    at_most_minutes(5);
    scene(1, |settings| change(settings.set("routing.leading_reads", "replicas")))
}

/// A transaction whose first read is on a standby.
fn begin(client: &mut Wire) {
    until("a transaction on a standby", SOON, || {
        assert_eq!(say(client, "BEGIN"), "BEGIN T");
        let here = say(client, "SELECT here()");
        if here != "standby T" {
            say(client, "ROLLBACK");
        }
        here == "standby T"
    });
}

/// The same, which has failed there.
fn fail(client: &mut Wire) {
    begin(client);
    assert_eq!(say(client, "SELECT 1 / 0"), "22012 E");
}

#[test]
fn who_is_idle_in_a_transaction_for_too_long_hears_so_and_is_gone() {
    let scene = stage(|settings| settings);
    let mut client = scene.client();
    client.query("SET idle_in_transaction_session_timeout = '300ms'");
    until("a read on the standby", SOON, || say(&mut client, "SELECT here()") == "standby I");
    begin(&mut client);
    let heard: Vec<_> = client.until_end().iter().map(Message::code).collect();
    assert_eq!(heard, ["25P03"]);
    assert!(
        !client.try_send(&query("INSERT INTO notes VALUES (810, 'x')")) || client.read().is_none()
    );
    let sql = "SELECT count(*) FROM notes WHERE id = 810";
    assert_eq!(scene.primary.psql(sql).trim(), "0");
    assert_eq!(scene.pgring.violations(), Some(0));
}

#[test]
fn a_failed_transaction_is_ended_in_any_words() {
    let scene = stage(|settings| settings);
    let mut client = scene.client();
    let long = format!("/*{}*/ ROLLBACK", "x".repeat(20_000));
    for end in [
        "ROLLBACK WORK",
        "ROLLBACK TRANSACTION",
        "COMMIT WORK",
        "END TRANSACTION;",
        "/* tag */ ROLLBACK",
        "ROLLBACK /* tag */",
        "-- \u{e9}\nABORT",
        &long,
    ] {
        fail(&mut client);
        for refused in ["SELECT '\u{e9}'", "PREPARE p AS SELECT 1", "INSERT INTO notes; COMMIT"] {
            let refused = say(&mut client, refused);
            assert!(["25P02 E", "42601 E"].contains(&&*refused), "{refused}");
        }
        assert_eq!(say(&mut client, end), "ROLLBACK I", "{end}");
    }
    // What is parsed in one segment, and run in the next.
    fail(&mut client);
    assert_eq!(told(&mut client, &[parse("", "ROLLBACK", &[]), sync()].concat()), " E");
    let run = [bind("", "", &[]), execute("", 0), sync()].concat();
    assert_eq!(told(&mut client, &run), "ROLLBACK I");
    fail(&mut client);
    let tagged = [extended("COMMIT /* tag */", &[]), sync()].concat();
    assert_eq!(told(&mut client, &tagged), "ROLLBACK I");
    // A transaction that follows begins on the standby, and moves with what writes.
    fail(&mut client);
    assert_eq!(say(&mut client, "ROLLBACK AND CHAIN"), "ROLLBACK T");
    assert_eq!(say(&mut client, "INSERT INTO notes VALUES (811, 'x')"), "INSERT 0 1 T");
    assert_eq!(say(&mut client, "COMMIT"), "COMMIT I");
    let sql = "SELECT string_agg(id::text, ' ') FROM notes WHERE id > 800";
    assert_eq!(scene.primary.psql(sql).trim(), "811");
    assert_eq!(scene.pgring.violations(), Some(0));
}

/// On the listener for reads only there is always another standby, or the same once more. The
/// planner runs a function that is said to be stable, before anything is answered.
#[test]
fn a_read_that_ends_its_server_is_said_three_times() {
    let port = Port::take();
    let address = port.address();
    let scene = stage(|settings| settings.set("listen_readonly", [&*address.to_string()]));
    scene.primary.psql(
        "CREATE FUNCTION fails() RETURNS text STABLE LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'as it was told' USING ERRCODE = '40001'; END $$;
         CREATE FUNCTION ends() RETURNS text STABLE LANGUAGE sql AS
            $$ SELECT pg_terminate_backend(pg_backend_pid())::text $$;",
    );
    let mut writer = scene.client();
    // The catalog is read anew.
    writer.query("DROP TABLE IF EXISTS nothing");
    let sql = "SELECT count(*) FROM pg_proc WHERE proname = 'ends'";
    until("the functions", SOON, || scene.standbys[0].psql(sql).trim() == "1");
    until("a read on the standby", SOON, || say(&mut writer, "SELECT here()") == "standby I");
    let mut client = Wire::login(address, "app");
    let before = scene.pgring.queries("pg2");
    assert_eq!(say(&mut client, "SELECT 1 FROM notes WHERE text = fails()"), "40001 I");
    assert_eq!(scene.pgring.queries("pg2"), before + 3);
    client.send(&query("SELECT 1 FROM notes WHERE text = ends()"));
    assert_eq!(client.until_end().last().map(Message::code).as_deref(), Some("57P01"));
    assert_eq!(scene.pgring.queries("pg2"), before + 6);
}

/// A client that is not followed has its reads on the primary, and goes on.
#[test]
fn statements_that_are_not_followed_are_the_primarys() {
    let scene = stage(|settings| settings.set("pool.prepared_statements", 0));
    let mut client = scene.client();
    for _ in 0..3 {
        let read = [extended("SELECT here()", &[]), sync()].concat();
        assert_eq!(told(&mut client, &read), "primary I");
    }
    let mut client = scene.client();
    begin(&mut client);
    let read = [extended("SELECT here()", &[]), sync()].concat();
    assert_eq!(told(&mut client, &read), "primary T");
    assert_eq!(say(&mut client, "COMMIT"), "COMMIT I");
    assert_eq!(scene.pgring.violations(), Some(0));
}
