"""Tables, figures and a page from what runs left."""
