"""demur: a runtime safety monitor for deployed models."""
