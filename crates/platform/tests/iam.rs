//! Creates, renews and deletes tokens at the simulated platform.

#![allow(clippy::unwrap_used, reason = "a helper of a test may fail the test")]

mod support;

use std::time::Duration;

use neurobridge_core::secret::Secret;
use neurobridge_platform::{
    Client, Iam, Named, Now, Renewal, RequestError, Scope, Step, TokenFile, sentence,
};
use neurobridge_simulator::{Options, TokenOptions};

use self::support::{Platform, within};

const CREDENTIAL: &str = "credential-of-the-test";

async fn platform(lifetime: Duration) -> Platform {
    Platform::start(Options {
        tokens: vec![CREDENTIAL.into()],
        token_options: TokenOptions {
            life: lifetime,
            ..TokenOptions::default()
        },
        ..Options::default()
    })
    .await
}

fn iam(platform: &Platform) -> Iam {
    Iam::new(Client::new(&platform.config(), &platform.url()).unwrap())
}

fn credential() -> Secret {
    Secret::new(CREDENTIAL)
}

#[tokio::test]
async fn token_is_created_used_and_deleted() {
    let platform = platform(Duration::from_secs(3_600)).await;
    let iam = iam(&platform);
    let created = within(iam.create_token(&credential(), Scope::Own, false))
        .await
        .unwrap();
    assert_eq!(created.lifetime, Some(Duration::from_secs(3_600)));
    let identity = within(iam.whoami(&created.key)).await.unwrap();
    assert_eq!((identity.account.id, identity.space), (1, None));
    assert!(within(iam.delete_token(&credential(), created.id)).await.unwrap());
    assert!(!within(iam.delete_token(&credential(), created.id)).await.unwrap());
    let refused = within(iam.whoami(&created.key)).await.unwrap_err();
    assert!(matches!(refused, RequestError::Unauthorised { .. }), "{refused}");
    assert!(!sentence(&refused).contains(created.key.expose()));
}

#[tokio::test]
async fn token_of_a_space_has_the_identity_of_the_space() {
    let platform = platform(Duration::from_secs(3_600)).await;
    let iam = iam(&platform);
    let created = within(iam.create_token(&credential(), Scope::Space(1), false))
        .await
        .unwrap();
    let identity = within(iam.whoami(&created.key)).await.unwrap();
    assert!(matches!(identity.space, Some(Named { id: 1, name: Some(_) })));
    let missing = within(iam.create_token(&credential(), Scope::Space(999), false))
        .await
        .unwrap_err();
    assert!(missing.to_string().contains("HTTP 404"), "{missing}");
    let foreign = within(iam.create_token(&created.key, Scope::Space(2), false))
        .await
        .unwrap_err();
    assert!(
        foreign.to_string().contains("expected a token with the rights"),
        "{foreign}"
    );
}

#[tokio::test]
async fn limit_of_permanent_tokens_is_described() {
    let platform = platform(Duration::from_secs(3_600)).await;
    let iam = iam(&platform);
    let mut refused = None;
    for _ in 0..6 {
        match within(iam.create_token(&credential(), Scope::Own, true)).await {
            Ok(created) => assert_eq!(created.lifetime, None),
            Err(error) => refused = Some(error),
        }
    }
    let text = refused.unwrap().to_string();
    assert!(
        text.contains("answered HTTP 400: at most 5 permanent tokens are allowed (error 6"),
        "{text}"
    );
}

#[tokio::test]
async fn unusable_answer_is_an_error() {
    for (rule, expected) in [
        ("rest-no-json", "is not JSON"),
        ("rest-other-shape", "unknown shape"),
        ("rest-http=500", "HTTP 500"),
        ("rest-http=302", "redirects to"),
        ("rest-cut", "failed before the answer was complete"),
    ] {
        let platform = platform(Duration::from_secs(3_600)).await;
        platform.fault(rule);
        let iam = iam(&platform);
        let errors = [
            within(iam.create_token(&credential(), Scope::Own, false))
                .await
                .unwrap_err(),
            within(iam.whoami(&credential())).await.unwrap_err(),
        ];
        for error in errors {
            let text = sentence(&error);
            assert!(
                text.contains(expected) && !text.contains(CREDENTIAL),
                "{rule}: {text}"
            );
        }
    }
}

#[tokio::test]
async fn renewal_keeps_a_valid_token_across_restarts() {
    let platform = platform(Duration::from_secs(3_600)).await;
    let iam = iam(&platform);
    let mut passed = Duration::ZERO;
    let folder = tempfile::tempdir().unwrap();
    let file = TokenFile::new(folder.path().join("token.json"), "account");
    let mut created = 0;
    while created < 4 {
        let now = Now::read();
        let now = Now {
            wall: now.wall + passed,
            ..now
        };
        // Each step runs as in a new process.
        let mut renewal = Renewal::new(file.read().unwrap(), now);
        renewal.used();
        match renewal.step(now) {
            Step::Create => {
                let token = within(iam.create_token(&credential(), Scope::Own, false))
                    .await
                    .unwrap();
                renewal.created(token, now);
                created += 1;
            }
            Step::Delete(id) => {
                within(iam.delete_token(&credential(), id)).await.unwrap();
                renewal.deleted(id);
            }
            Step::Wait(left) => {
                let key = renewal.token(now).unwrap().key.clone();
                within(iam.whoami(&key)).await.unwrap();
                passed += left;
            }
        }
        file.write(&renewal.to_stored().unwrap()).unwrap();
        // The credential is a token too.
        assert!(platform.handle.active_tokens() <= 3);
    }
}
