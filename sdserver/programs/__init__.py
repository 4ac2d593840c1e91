"""Jobs as generators that yield device calls."""
