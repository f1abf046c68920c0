use proptest::prelude::*;

use super::*;
use crate::GRAMMAR;

fn read(text: &str) -> FaultRule {
    text.parse().unwrap()
}

fn refusal(text: &str) -> String {
    text.parse::<FaultRule>().unwrap_err().to_string()
}

#[test]
fn rule_parses_with_words_in_any_order_and_with_spaces() {
    let rule = FaultRule::new(Reaction::Close { code: 1001 })
        .connection(1)
        .after(500)
        .times(2);
    assert_eq!(read("close=1001,connection=1,after=500,times=2"), rule);
    assert_eq!(read("times=2, after=500 , close=1001, connection=1"), rule);
    assert_eq!(
        read("http=503,retry-after=3,connection=2"),
        FaultRule::new(Reaction::Http {
            status: 503,
            retry_after: Some(3)
        })
        .connection(2)
    );
    assert_eq!(
        read("huge=4MiB,after=10"),
        FaultRule::new(Reaction::Huge { bytes: 4 << 20 }).after(10)
    );
    assert_eq!(
        read("cut,every=2m"),
        FaultRule::new(Reaction::Cut).every(Every::Time(Duration::from_secs(120)))
    );
    assert_eq!(
        read(r"error=a\, b\\,every=100"),
        FaultRule::new(Reaction::Error {
            message: r"a, b\".to_owned()
        })
        .every(Every::Events(100))
    );
}

#[test]
fn errors_name_found_and_expected_values() {
    let refusals: Vec<String> = [
        "",
        "clsoe=1001",
        "conection=1,silence",
        "fire",
        "close",
        "close=70000",
        "close=soon",
        "silence=5",
        "http=99",
        "huge=12",
        "huge=3GB",
        "drip=0",
        "silence,cut",
        "connection=1",
        "silence,after=1,after=2",
        "silence,connection=0",
        "silence,every=2d",
        "refuse-token,after=3",
        "no-auth-answer,every=5",
        "close=1000,retry-after=3",
        "rest-http",
        "rest-slow=0s",
        "rest-slow=5",
        "rest-cut=half",
        "rest-cut,connection=1",
        "rest-cut,every=5",
        "rest-cut,path=v1",
        "cut,path=/v1/tokens",
    ]
    .into_iter()
    .map(|text| format!("{text}\n    {}", refusal(text)))
    .collect();
    insta::assert_snapshot!(refusals.join("\n"));
}

#[test]
fn grammar_lists_every_word_with_valid_examples() {
    for word in CONDITIONS.into_iter().chain(reactions()) {
        assert!(GRAMMAR.contains(word), "{word}");
    }
    let examples = &GRAMMAR[GRAMMAR.find("Examples:").unwrap() + "Examples:".len()..];
    assert_eq!(examples.split_whitespace().map(read).count(), 6);
}

#[test]
fn every_reaction_parses_without_conditions() {
    for word in reactions() {
        let text = match word {
            "http" => "http=503",
            "rest-http" => "rest-http=429",
            "rest-slow" => "rest-slow=30s",
            "close" => "close=1001",
            "late-answer" => "late-answer=2s",
            "huge" => "huge=1MiB",
            "send" => r#"send={"a":[1\,2]}"#,
            word => word,
        };
        assert!(read(text).to_string().starts_with(word), "{text}");
    }
}

fn rest_faults() -> impl Strategy<Value = RestFault> {
    prop_oneof![
        (200_u16..600, any::<Option<u64>>())
            .prop_map(|(status, retry_after)| RestFault::Http { status, retry_after }),
        (1_u64..1 << 40).prop_map(|delay| RestFault::Slow {
            delay: Duration::from_millis(delay)
        }),
        (1_u32..).prop_map(|bytes_per_second| RestFault::Drip { bytes_per_second }),
        (MIN_FRAME_BYTES..=256 << 20).prop_map(|bytes| RestFault::Huge { bytes }),
        prop::sample::select(vec![
            RestFault::Cut,
            RestFault::NoJson,
            RestFault::OtherShape,
            RestFault::Endless,
            RestFault::SamePage,
            RestFault::Backwards,
            RestFault::NoId,
        ]),
    ]
}

fn any_reaction() -> impl Strategy<Value = Reaction> {
    prop_oneof![
        any::<u16>().prop_map(|code| Reaction::Close { code }),
        any::<u16>().prop_map(|code| Reaction::CloseAfterAuth { code }),
        ".{0,20}".prop_map(|value| Reaction::WrongPong { value }),
        ".{0,20}".prop_map(|message| Reaction::RefuseToken { message }),
        ".{0,20}".prop_map(|value| Reaction::WrongAuth { value }),
        ".{1,20}".prop_map(|text| Reaction::Send { text }),
        ".{0,20}".prop_map(|message| Reaction::Error { message }),
        (200_u16..600, any::<Option<u64>>())
            .prop_map(|(status, retry_after)| Reaction::Http { status, retry_after }),
        (MIN_FRAME_BYTES..=256 << 20).prop_map(|bytes| Reaction::Huge { bytes }),
        (1_u32..).prop_map(|bytes_per_second| Reaction::Drip { bytes_per_second }),
        (1_u32..).prop_map(|entries| Reaction::Duplicate { entries }),
        prop::sample::select(vec![
            Reaction::Cut,
            Reaction::Reset,
            Reaction::Silence,
            Reaction::NoPong,
            Reaction::NoAuthAnswer,
            Reaction::LateAnswer {
                delay: Duration::from_millis(1_500),
            },
            Reaction::Binary,
            Reaction::BadUtf8,
            Reaction::BadJson,
            Reaction::UnknownKind,
            Reaction::HalfOpen,
            Reaction::SameId,
            Reaction::OutOfOrder,
        ]),
    ]
}

proptest! {
    #[test]
    fn displayed_rule_parses_to_the_same_rule(
        reaction in prop_oneof![any_reaction(), rest_faults().prop_map(Reaction::Rest)],
        connection in prop::option::of(1_u64..),
        after: u64,
        times in prop::option::of(1_u64..),
        milliseconds in prop::option::of(1_u64..1 << 40),
    ) {
        let mut rule = FaultRule::new(reaction);
        if rule.reaction.phase() == Phase::Rest {
            rule.request = connection;
            rule.path = connection.map(|number| format!("/v1/{number}"));
        } else {
            rule.connection = connection;
        }
        rule.after = if rule.reaction.phase() == Phase::Events { after } else { 0 };
        rule.times = times;
        rule.every = milliseconds.map(|time| Every::Time(Duration::from_millis(time)));
        prop_assert_eq!(rule.to_string().parse::<FaultRule>(), Ok(rule));
    }

    #[test]
    fn arbitrary_text_does_not_panic(text in ".{0,60}") {
        let _: Result<FaultRule, ParseFaultError> = text.parse();
    }
}
