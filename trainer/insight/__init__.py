"""What a run says of itself while it trains: metrics, heartbeat, profile, what bounds it and who keeps others
waiting."""
