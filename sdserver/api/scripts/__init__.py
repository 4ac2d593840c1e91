"""AUTOMATIC1111's selectable scripts: generators that yield what is to be run and are sent the results."""
