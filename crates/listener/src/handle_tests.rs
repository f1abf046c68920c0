use super::*;

#[tokio::test]
async fn token_state_is_that_of_the_newest_token() {
    let live = Live::default();
    let handle = live.handle();
    handle.set_token("first");
    live.note(1, TokenState::InUse);
    assert_eq!(handle.token_state(), TokenState::InUse);
    handle.clone().set_token("second");
    live.note(1, TokenState::Refused);
    assert_eq!(handle.token_state(), TokenState::Waiting);
    live.note(2, TokenState::Refused);
    let state = handle.token_state_is(|state| state != TokenState::Waiting).await;
    assert_eq!(state, TokenState::Refused);
    assert_eq!(live.token().await.unwrap().unwrap().expose(), "second");
}

#[test]
fn invalid_url_changes_nothing() {
    let live = Live::default();
    let mut changes = live.changes();
    let error = live.handle().set_url("https://u:hunter2@host").unwrap_err();
    assert!(
        error.to_string().starts_with("url: ") && !error.to_string().contains("hunter2"),
        "{error}"
    );
    assert_eq!(live.endpoint(), None);
    assert!(futures_util::FutureExt::now_or_never(changes.changed()).is_none());
    live.handle().set_url("ws://other/").unwrap();
    assert_eq!(live.endpoint().unwrap().host, "other");
    assert!(futures_util::FutureExt::now_or_never(changes.changed()).is_some());
}

#[tokio::test(start_paused = true)]
async fn provider_is_limited_in_time_and_replaced_by_a_set_token() {
    let provider = |request: TokenRequest| async move {
        if request.is_refused {
            std::future::pending::<()>().await;
        }
        Ok::<_, std::io::Error>(Secret::new("provided"))
    };
    let live = Live::with_provider(Provider::new(provider));
    assert_eq!(live.token().await.unwrap().unwrap().expose(), "provided");
    live.note(0, TokenState::Refused);
    assert!(matches!(live.token().await, Err(ProviderError::Timeout)));
    live.handle().set_token("set");
    assert_eq!(live.token().await.unwrap().unwrap().expose(), "set");
}
