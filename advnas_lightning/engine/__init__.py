"""The engine that all search strategies share, made of parts with narrow inputs. It holds no formula."""
